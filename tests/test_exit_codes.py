"""Exit codes and last words: what a script, a scheduler or a person sees when a run ends."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import pytest
from processes import forked
from tiny_runs import DEFAULTS, compose_tiny, timeless

from layertune.command_line import run_command_line
from layertune.errors import ConfigError, DataError, Interruption, ModelError, RecordError, RunFailed
from layertune.pipeline import execute
from layertune.records import Store, read_record


def ends_with(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "single", "sweep"),
    [
        (ConfigError("no such k"), 2, 1),
        (DataError("no such file"), 2, 1),
        (ModelError("no such weights"), 2, 1),
        (RunFailed("run: failed: why"), 1, 1),
        (RecordError(Path("half.json"), "is not a complete record"), 1, 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1, 1),
        (KeyboardInterrupt(), 1, 1),
        (Interruption("the same command goes on"), 75, 75),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_end_has_its_exit_code_and_one_sentence(error, single, sweep, capsys):
    assert run_command_line(ends_with(error), ["task=demo"]) == single
    assert run_command_line(ends_with(error), ["-m", "task=demo"]) == sweep
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and lines[0] == lines[1]
    assert lines[0].startswith("layertune: ") and "Traceback" not in lines[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_stopped_before_or_between_its_runs_is_resumable(capsys, number):
    before = signal.getsignal(number)
    assert run_command_line(lambda: signal.raise_signal(number), []) == 75
    assert "the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(number) == before


def test_a_run_that_ends_well_says_nothing_on_stderr(capsys):
    assert run_command_line(lambda: None, []) == 0
    assert capsys.readouterr().err == ""


def test_a_mistake_of_ours_is_not_dressed_up_as_a_request(capsys):
    with pytest.raises(TypeError):  # a traceback is right here: it is a bug
        run_command_line(ends_with(TypeError("bug")), [])


def test_help_lists_every_choice_without_calling_hydra(capsys):
    assert run_command_line(lambda: pytest.fail("called"), ["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("tiny_bert", "demo", "block_high", "smoke", "Exit codes"))


# A method that stops, or fails, its own process in the middle of training.
METHOD = """
import os, signal
from layertune.methods import SelectedLayers

class Stops(SelectedLayers):
    def after_step(self, model, step):
        if step == 3 and os.environ.get("STOP_SEED") == str(self.run.seed):
            os.kill(os.getpid(), signal.SIGTERM)

class Fails(SelectedLayers):
    def after_step(self, model, step):
        if self.run.seed == 1:
            raise ArithmeticError("seed one never works")
"""


@pytest.fixture
def command(repo, tmp_path, monkeypatch):
    (tmp_path / "method_of_mine.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)

    def call(*arguments, **environment):
        given = {item.split("=")[0] for item in arguments}
        chosen = [item for item in DEFAULTS if item.split("=")[0] not in given]
        folders = (
            f"outputs_dir={tmp_path / 'outputs'}",
            f"results_dir={tmp_path / 'results'}",
        )
        return forked(repo / "run.py", (*arguments, *chosen, *folders), tmp_path, **environment)

    return call


def records(folder):
    found = [read_record(path) for path in sorted((folder / "outputs" / "records").glob("*.json"))]
    return {record.spec.seed: record for record in found}


@pytest.mark.slow
def test_a_real_sigterm_ends_resumable_and_the_same_request_goes_on(command, tmp_path, caplog):
    request = ("method.kind=method_of_mine.Stops", "method.k=2", "train.epochs=2")
    kept = "checkpoint.every_steps=100"
    stopped = command(*request, kept, STOP_SEED="0")
    assert stopped.returncode == 75, stopped.stderr
    assert stopped.stderr.splitlines()[-1].startswith(
        "layertune: stopped after a step; the same command goes"
    )
    assert "Traceback" not in stopped.stderr
    assert records(tmp_path)[0].status == "interrupted"
    (checkpoint,) = (tmp_path / "outputs" / "checkpoints").iterdir()

    caplog.set_level("INFO")
    resumed, whole = (
        execute(run, Store(run.results_dir, run.outputs_dir))
        for run in (
            compose_tiny(tmp_path, *request, kept),
            compose_tiny(tmp_path / "whole", *request),
        )
    )
    assert f"resuming from {checkpoint}" in caplog.text and not checkpoint.exists()
    assert (resumed.status, resumed.run_id) == ("done", whole.run_id)
    assert timeless(resumed.training.history) == timeless(whole.training.history)
    assert resumed.metrics == whole.metrics and resumed.checks == whole.checks
    assert records(tmp_path)[0] == resumed


@pytest.mark.slow
def test_a_sigterm_ends_a_whole_sweep(command, tmp_path):
    stopped = command("-m", "seed=0,1", "method.kind=method_of_mine.Stops", STOP_SEED="0")
    assert stopped.returncode == 1, stopped.stderr
    assert stopped.stderr.splitlines()[-1] == "layertune: interrupted"
    assert "Traceback" not in stopped.stderr
    assert {seed: record.status for seed, record in records(tmp_path).items()} == {0: "interrupted"}


@pytest.mark.slow
def test_a_job_that_fails_stops_no_other_job_of_its_sweep(command, tmp_path):
    done = command("-m", "seed=0,1,2", "method.kind=method_of_mine.Fails", "method.k=1,9")
    assert done.returncode == 1
    found = records(tmp_path)
    assert {seed: record.status for seed, record in found.items()} == {0: "done", 1: "failed", 2: "done"}
    assert "Traceback" in found[1].error and "seed one never works" in found[1].error
    assert "Traceback" not in done.stderr  # it is in the record
    assert "seed one never works" in done.stderr  # each failing job is named, not only the first
    assert done.stderr.count("method.k=9 is out of range") >= 3
