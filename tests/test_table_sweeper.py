"""`python run.py -m hydra/sweeper=table`: only what is missing, longest first, whatever the launcher."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from processes import forked, others_that_hold
from programs import Ended, own_logging, program

from hydra_plugins.layertune_table_sweeper import _gpus
from hydra_plugins.layertune_table_sweeper._gpus import OnItsOwnGpu, listed_gpus, one_per_worker, visible_gpus
from layertune.config.compose import compose_run
from layertune.records import Record, Store, read_record
from layertune.records.store import claimed

TABLE = """
name: mine
title: Mine
caption: Three ways to train a tiny model.
seeds: [0, 1]
rows:
  - rows:
      - full
      - low_k
      - fails
columns: [demo]
"""
NAMED = (
    "name: fails\ntitle: Fails\nversion: 1\nkind: method_in_sweep.Fails\nscorer: null\nselector: top\nk: 2\n"
)
METHOD = """
from layertune.methods import SelectedLayers

class Fails(SelectedLayers):
    def after_step(self, model, step):
        raise ArithmeticError("by design")
"""
SWEEP = (
    "-m",
    "--config-dir=configs",
    "hydra/sweeper=table",
    "table=mine",
    "model=tiny_bert",
    "protocol=smoke",
)
SWEEP += ("tracking=disabled",)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table and a method of one's own, the working folder of the test."""
    (tmp_path / "configs" / "table").mkdir(parents=True)
    (tmp_path / "configs" / "table" / "mine.yaml").write_text(TABLE)
    (tmp_path / "configs" / "method").mkdir()
    (tmp_path / "configs" / "method" / "fails.yaml").write_text(NAMED)
    (tmp_path / "method_in_sweep.py").write_text(METHOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def call(repo: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a caller of run.py in that folder."""
    with own_logging():
        yield lambda *arguments: program(repo / "run.py", arguments, monkeypatch)


def records(folder: Path) -> dict[str, Record]:
    found = [read_record(path) for path in sorted((folder / "outputs" / "records").glob("*.json"))]
    return {f"{record.spec.method} {record.spec.seed}": record for record in found}


def started(output: str) -> list[str]:
    """Return the overrides of the jobs, in the order in which they were launched."""
    return [line.split(" : ")[1] for line in output.splitlines() if "[HYDRA]" in line and "#" in line]


def test_only_what_is_missing_is_run_with_the_words_given(call, folder, capsys):
    half = (*SWEEP, "method=full,low_k", "train.epochs=2")
    assert call(*half, "seed=1") == 0
    assert len(started(capsys.readouterr().out)) == 2
    assert call(*half) == 0
    shown = capsys.readouterr().out
    assert len(started(shown)) == 2 and "2 of 2 runs are done" in shown
    found = records(folder)
    assert set(found) == {"full 0", "full 1", "low_k 0", "low_k 1"}
    for record in found.values():
        assert record.training is not None and record.training.epochs == 2
        wanted = compose_run(*(word for word in record.spec.overrides if "_dir" not in word))
        assert record.identity.config_sha256 == wanted.config_sha256  # what a cell asks for
    assert call(*half) == 0  # a third time: nothing
    shown = capsys.readouterr().out
    assert "nothing to run" in shown and not started(shown)


def test_a_run_that_fails_stops_no_other_and_is_named_at_the_end(call, folder, capsys):
    assert call(*SWEEP, "seed=0", "method=low_k,fails") == 1
    said = capsys.readouterr()
    assert {name: record.status for name, record in records(folder).items()} == {
        "low_k 0": "done",
        "fails 0": "failed",
    }
    assert "1 of 2 runs are done" in said.out
    (line,) = (line for line in said.out.splitlines() if "not done: " in line)
    assert "method=fails" in line and "ArithmeticError: by design" in line
    assert said.err.splitlines()[-1].startswith("layertune: 1 of 2 runs did not finish")
    assert "Traceback" not in said.out + said.err


@pytest.fixture
def launcher(monkeypatch):
    """A launcher that runs nothing, or breaks down; it keeps what it was given."""

    class Idle:
        error: Exception | None = None

        def __init__(self):
            self.jobs = []

        def launch(self, jobs, initial_job_idx):
            self.jobs.extend(jobs)
            if self.error is not None:
                raise self.error
            return []

    idle = Idle()
    monkeypatch.setattr(Plugins, "instantiate_launcher", lambda self, **context: idle)
    return idle


def test_the_longest_run_comes_first(call, launcher, capsys):
    assert (
        call("-m", "hydra/sweeper=table", "table=table1", "task=sst2,trec", "method=full,top_k", "seed=0")
        == 1
    )
    order = [tuple(word for word in job if word.startswith(("task=", "method="))) for job in launcher.jobs]
    assert order == [
        ("task=sst2", "method=full"),
        ("task=sst2", "method=top_k"),
        ("task=trec", "method=full"),
        ("task=trec", "method=top_k"),
    ]
    assert capsys.readouterr().out.count("it left no record") == 4


def test_a_launcher_that_breaks_down_is_one_sentence(call, launcher, capsys):
    launcher.error = OSError("a worker was killed")
    assert call(*SWEEP, "method=full", "seed=0") == 1
    said = capsys.readouterr()
    assert "a worker was killed" in said.out and "Traceback" not in said.out + said.err
    assert said.err == "layertune: 1 of 1 runs did not finish; the same command tries them again\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-m", "hydra/sweeper=table"], "No table given"),
        (["-m", "hydra/sweeper=table", "table=nope"], "table=nope does not exist"),
        (["-m", "hydra/sweeper=table", "table=table1", "train.epoch=3"], "train.epoch does not exist"),
        (["-m", "hydra/sweeper=table", "table=table1", "seed=7"], "no run fits seed=7"),
        (["-m", "hydra/sweeper=table", "table=table1", "train.epochs=3,5"], "one value of train.epochs"),
        (["table=table1", "model=tiny_bert", "task=demo", "method=full"], "table=<name> is for sweeps"),
    ],
)
def test_a_wrong_request_runs_nothing(call, folder, capsys, arguments, sentence):
    assert call(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("layertune: ") and sentence in line
    assert not (folder / "results").exists() and not (folder / "outputs").exists()


@pytest.mark.parametrize("asked", [[], ["protocol=study"]])
def test_table_4_is_timed_whatever_the_protocol_of_the_others(call, launcher, asked):
    call("-m", "hydra/sweeper=table", "table=table4,table1", "task=sst2", "method=full", "seed=0", *asked)
    runs = [compose_run(*job) for job in launcher.jobs]
    wanted = "study" if asked else "paper"
    assert sorted(run.protocol.name for run in runs) == sorted([wanted, "timing"])
    (timed,) = (run.protocol for run in runs if run.protocol.name == "timing")
    assert (timed.warmup_steps, timed.max_steps, timed.evaluate) == (20, 100, False)


def test_a_plain_sweep_over_models_is_composed_job_by_job(call, folder):
    assert call("-m", "model=tiny_bert,tiny_gpt2", "task=demo", "method=head_only", *SWEEP[5:]) == 0
    names = sorted(path.name.split("-")[0] for path in (folder / "outputs" / "records").glob("*.json"))
    assert names == ["tiny_bert", "tiny_gpt2"]


def interpreted(path: Path, words: Sequence[str], folder: Path) -> Ended:
    """Run a file in an interpreter of its own: workers of joblib and submitit begin as that one does."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(path), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    return Ended(done.returncode, done.stdout, done.stderr)


def needs(module: str) -> pytest.MarkDecorator:
    found = importlib.util.find_spec(f"hydra_plugins.{module}")
    return pytest.mark.skipif(found is None, reason=f"{module} is not installed (extra: launchers)")


JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(JOBLIB, marks=needs("hydra_joblib_launcher"), id="joblib"),
        pytest.param(
            ("hydra/launcher=submitit_local",),
            marks=[needs("hydra_submitit_launcher"), pytest.mark.whole],
            id="submitit",
        ),
    ],
)
def test_other_launchers_run_the_same(launcher, folder, repo):
    done = interpreted(repo / "run.py", (*SWEEP, "seed=0", "method=full,fails", *launcher), folder)
    assert done.returncode == 1, done.stderr
    assert {name: record.status for name, record in records(folder).items()} == {
        "full 0": "done",
        "fails 0": "failed",
    }
    assert "1 of 2 runs are done" in done.stdout and done.stdout.count("ArithmeticError: by design") == 1
    assert done.stderr.splitlines()[-1].startswith("layertune: 1 of 2 runs did not finish")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "start", "words"),
    [
        ("low_k", forked, SWEEP[:4]),
        ("full", forked, ("-m", "task=demo")),
        pytest.param(
            "full",
            interpreted,
            ("-m", "task=demo", *JOBLIB),
            marks=[needs("hydra_joblib_launcher"), pytest.mark.whole],
        ),
    ],
    ids=["table", "plain", "joblib"],
)
def test_a_run_that_another_process_trains_comes_again_at_the_end(first, start, words, folder, repo):
    """It is held until the other run is done, then given up as by a process that was killed."""
    run = (*SWEEP[4:], "seed=0", "method=full,low_k")
    mine = compose_run(*run[:-1], "task=demo", f"method={first}", f"outputs_dir={folder / 'outputs'}")

    def hold(held):
        with claimed(mine, Store(folder / "results", folder / "outputs")):
            held.set()
            while not records(folder):
                time.sleep(0.1)

    with others_that_hold() as another:
        another(hold)
        done = start(repo / "run.py", (*words, *run), folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("comes again at the end") + done.stdout.count("comes again at the end") == 1
    found = records(folder)
    assert {name: record.status for name, record in found.items()} == {"full 0": "done", "low_k 0": "done"}
    assert max(found.values(), key=lambda record: record.created_at).spec.method == first


def config_of(launcher: str, n_jobs: int = -1):
    return OmegaConf.create({"hydra": {"launcher": {"_target_": f"some.{launcher}", "n_jobs": n_jobs}}})


def test_joblib_has_a_worker_per_gpu_and_other_launchers_are_left_alone(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,9")
    with one_per_worker(config_of("JoblibLauncher"), print) as (config, task):
        assert config.hydra.launcher.n_jobs == 3
        assert isinstance(task, OnItsOwnGpu) and (task.gpus, task.workers) == (("4", "7", "9"), 3)
        assert Path(task.folder).is_dir()
    assert not Path(task.folder).exists()
    with one_per_worker(config_of("JoblibLauncher", 6), print) as (config, task):
        assert config.hydra.launcher.n_jobs == task.workers == 6  # as asked: two workers share a GPU
    given = config_of("LocalLauncher")
    with one_per_worker(given, print) as (config, task):
        assert config is given and task is print
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == ()
    with one_per_worker(config_of("JoblibLauncher"), print) as (config, task):
        assert config.hydra.launcher.n_jobs == -1 and task is print


def test_gpus_are_named_as_cuda_reads_them(monkeypatch, tmp_path):
    for given, expected in (("0, 1", ("0", "1")), ("2,-1,3", ("2",)), ("MIG-a/1/0", ("MIG-a/1/0",))):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert visible_gpus() == expected
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi: the driver's files are counted
    monkeypatch.setattr(_gpus, "DEVICES", tmp_path)
    assert visible_gpus() == ()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus() == ("0", "1")


def test_a_gpu_that_is_cut_up_is_shared_by_its_parts():
    listed = (
        "GPU 0: NVIDIA A100 (UUID: GPU-aa)\n"
        "  MIG 3g.20gb     Device  0: (UUID: MIG-b1)\n"
        "  MIG 3g.20gb     Device  1: (UUID: MIG-b2)\n"
        "GPU 1: NVIDIA A100 (UUID: GPU-cc)\n"
    )
    assert listed_gpus(listed) == ("MIG-b1", "MIG-b2", "1")


def seen(place: str) -> tuple[int, str]:
    """Say which GPU this worker sees, once four workers are there (or ten seconds are over)."""
    (Path(place) / str(os.getpid())).touch()
    end = time.monotonic() + 10
    while len(list(Path(place).iterdir())) < 4 and time.monotonic() < end:
        time.sleep(0.02)
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.slow
def test_every_worker_keeps_a_gpu_and_gpus_are_shared_evenly(tmp_path):
    joblib = pytest.importorskip("joblib")
    locks, workers = tmp_path / "locks", tmp_path / "workers"
    locks.mkdir(), workers.mkdir()
    task = OnItsOwnGpu(seen, ("4", "7"), 4, str(locks))
    found = joblib.Parallel(n_jobs=4, backend="loky", batch_size=1)(
        joblib.delayed(task)(str(workers)) for _ in range(12)
    )
    by_worker = dict(found)
    assert len(set(found)) == len(by_worker) == 4  # a worker never changes its GPU
    assert sorted(by_worker.values()) == ["4", "4", "7", "7"]
