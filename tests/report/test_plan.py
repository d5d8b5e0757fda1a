"""Plans on made records: what is still to be run, once each, with commands that ask for exactly that."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from made_records import PROVEN, made, write
from programs import Ended

from layertune.config.compose import compose_run, plain_run
from layertune.errors import ConfigError
from layertune.records import Record
from layertune.records.record import ChecksRecord, VersionsRecord
from layertune.report.index import RecordIndex
from layertune.report.plan import Plan, lines, make_plan, read_index
from layertune.report.request import read_words

NARROW = ("task=sst2", "method=low_k,full")  # of Table 1: six runs


def plan_of(folder: Path, words: tuple[str, ...], *records: Record) -> Plan:
    return make_plan(read_words(words), RecordIndex.read(write(folder, *records)))


def runs_of(*words: str) -> dict[str, object]:
    """The runs that the words select, by method and seed."""
    (spec,) = read_words(words).specs()
    return {f"{run.method.name} {run.seed}": run for run in spec.runs() if run.task.name == "sst2"}


def test_what_is_done_is_left_out_and_every_other_state_is_named(tmp_path: Path) -> None:
    runs = runs_of("table=table1")
    no_proof = ChecksRecord(**{**vars(PROVEN), "frozen_unchanged": False})
    plan = plan_of(
        tmp_path,
        ("table=1", *NARROW),
        made(runs["low_k 0"]),
        made(runs["low_k 42"], status="failed", error="why"),
        made(runs["low_k 100"], status="oom"),
        made(runs["full 0"], versions=VersionsRecord(0, 1, 1, 1)),
        made(runs["full 42"], checks=no_proof),
    )
    found = {f"{one.run.method.name} {one.run.seed}": one.state for one in plan.runs}
    assert found == {"low_k 42": "failed", "low_k 100": "oom", "full 0": "stale", "full 100": "missing"}
    assert plan.refused == ("bert-sst2-full-s42 is refused: frozen_unchanged is false",)
    (total,) = plan.totals
    assert (total.name, total.runs, total.done, total.left) == ("table1", 6, 1, 4)


def test_the_longest_run_comes_first_and_totals_add_up(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ("table=1", *NARROW), made(runs_of("table=1")["full 0"], lowest=0))
    seconds = [one.estimate.seconds or 0.0 for one in plan.runs]
    assert [one.run.method.name for one in plan.runs] == ["full"] * 2 + ["low_k"] * 3
    assert seconds == sorted(seconds, reverse=True)
    assert plan.totals[0].seconds == pytest.approx(sum(seconds))
    assert plan.totals[0].memory_bytes == max(one.estimate.memory_bytes or 0.0 for one in plan.runs)
    # full, by hand: 5 epochs of 6,920 rows at 64 a second, 872 rows forward at a third of that cost
    assert seconds[:2] == pytest.approx([5 * 6920 / 64 + 5 * 872 / 64 / 3] * 2)


def test_a_run_that_several_tables_need_is_counted_once(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ("table=table1,figure4", "task=sst2", "method=low_k", "seed=0"))
    counts = {total.name: total.runs for total in plan.totals}
    assert counts == {"table1": 1, "figure4": 22, "all": 22}  # k = 1 ... 11, for accuracy and for time
    shared = [one for one in plan.runs if len(one.tables) == 2]
    assert [(one.run.method.k, one.run.protocol.name, one.tables) for one in shared] == [
        (3, "paper", ("table1", "figure4"))
    ]


def test_a_cell_that_any_record_fills_asks_for_nothing_more(tmp_path: Path) -> None:
    empty = plan_of(tmp_path / "empty", ("table=figure2",))
    assert [(one.run.task.name, one.run.stage) for one in empty.runs].count(("sst2", "score")) == 1
    low = plan_of(tmp_path / "low", ("table=figure2",), made(runs_of("table=table1")["low_k 42"]))
    assert {one.run.task.name for one in low.runs} == {"qnli", "cola"}


def test_force_repeats_what_is_done(tmp_path: Path) -> None:
    done = made(runs_of("table=1")["full 0"])
    plan = plan_of(tmp_path, ("table=1", "task=sst2", "method=full", "seed=0", "force=true"), done)
    assert [one.state for one in plan.runs] == ["done"]


@pytest.mark.parametrize(
    "words",
    [
        (
            "table=table1",
            "task=cr",
            "method=slimfit,low_k",
            "model=gte_small",
            "model.path=some where",
            "seed=42",
        ),
        ("table=table4", "task=qnli", "method=full,lora", "data_dir=rows", "train.epochs=3"),
        ("table=table10", "task=sst2", "method=lora", "grid=fair", "train=fast", "seed=0"),
        ("table=table5", "task=olid_dynahate", "method=io_low_k", "train.betas=[0.9,0.95]", "seed=100"),
        ("table=table3", "model=smollm2", "method=low_k", "seed=0"),
        (
            "table=table2",
            "task=rte",
            "method=block_low",
            "protocol=study",
            "study.train_examples=50",
            "seed=0",
        ),
    ],
    ids=lambda words: words[0],
)
def test_commands_ask_for_the_runs_of_the_cells(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # compose_run looks at data and weights
    (tmp_path / "rows" / "qnli").mkdir(parents=True)
    (tmp_path / "some where").mkdir()
    (tmp_path / "some where" / "config.json").write_text("{}")
    (tmp_path / "some where" / "model.safetensors").touch()
    for split in ("train", "validation"):
        (tmp_path / "rows" / "qnli" / f"{split}.csv").touch()
    (spec,) = read_words(words).specs()
    wanted = {run.config_sha256 for run in spec.runs()}
    plan = plan_of(tmp_path / "records", words)
    assert plan.runs
    for one in plan.runs:
        python, program, *overrides = shlex.split(one.command)
        assert (python, program) == ("python", "run.py")
        composed = compose_run(*overrides)
        assert composed.config_sha256 == one.run.config_sha256 and composed.config_sha256 in wanted


def test_a_plan_is_a_script(tmp_path: Path) -> None:
    text = lines(plan_of(tmp_path, ("table=1", *NARROW, "train.betas=[0.9,0.95]")))
    commands = [line for line in text if not line.startswith("#")]
    assert len(commands) == 6 and all(line.startswith("python run.py model=bert ") for line in commands)
    assert "'train.betas=[0.9,0.95]'" in commands[0]
    assert all(shlex.split(line, comments=True)[-1].startswith("seed=") for line in commands)
    assert "; missing; table1; from no record" in commands[0]
    assert text[-1].split()[:5] == ["#", "table1", "6", "0", "6"]
    done = subprocess.run(["sh", "-n"], input="\n".join(text), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_words_of_a_model_are_about_that_model_alone(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path, ("table=6", "model=gte_small", "model.path=w", "task=rte", "method=top_k", "seed=0")
    )
    paths = {one.run.model.name: one.run.model.path for one in plan.runs}
    assert len(paths) == 6 and {name for name, path in paths.items() if path} == {"gte_small"}


def test_the_model_of_a_table_of_language_models_is_the_language_model() -> None:
    assert read_words(["table=table3", "model=smollm2"]).request.lm == "smollm2"
    both = read_words(["table=table1,table3", "model=gte_small"]).request
    assert (both.model, both.lm) == ("gte_small", "gpt2")
    assert read_words(["table=figure3", "lm=smollm2"]).request.lm == "smollm2"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["table=table99"], "table=table99 does not exist"),
        (["table=table1", "low_k"], "'low_k' is no override"),
        (["table=table1", "train.epochs=3,5"], "takes one value of train.epochs"),
        (["table=table1", "method.k=range(1,4)"], "takes one value of method.k"),
        (["table=table1", "model=bert,roberta"], "takes one value of model"),
        (["table=table1", "task=sst3"], "no run fits task=sst3; task is one of: sst2, sst5, mr, cr,"),
        (["table=table1", "task=sst2,sst3"], "no run fits task=sst3;"),
        (["table=table1", "seed=7"], "no run fits seed=7; seed is one of: 0, 42, 100."),
        (["table=table4", "task=e2e"], "no run fits task=e2e"),
        (["table=table1", "train.epoch=3"], "train.epoch does not exist"),
        (["table=table6", "model.path=w"], "model.path=w is about model=bert"),
        (["table=table3", "model=roberta"], "is an encoder"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_wrong_request_is_one_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence.replace("(", r"\(")):
        make_plan(read_words(words), RecordIndex(()))


def test_the_records_of_a_search_say_what_runs_will_take(tmp_path: Path) -> None:
    words = ["table=1", "task=sst2", "method=full", "seed=0", f"results_dir={tmp_path}"]
    searched = plain_run(["model=bert", "task=sst2", "method=full", "protocol=search"])
    write(tmp_path / "search" / "records", made(searched, lowest=0))
    plan = make_plan(read_words(words), read_index(words))
    assert [one.estimate.basis for one in plan.runs] == ["1 record of same model, method and task"]


def test_the_script_reads_its_folders_and_imports_nothing_heavy(repo: Path, tmp_path: Path) -> None:
    run = runs_of("table=1")["full 0"]
    write(tmp_path / "results" / "runs", made(run))
    program = (
        "import runpy, sys; sys.argv = ['report.py', 'plan', 'table=1', 'task=sst2', 'method=full', "
        f"'results_dir={tmp_path / 'results'}']\n"
        f"runpy.run_path({str(repo / 'scripts' / 'report.py')!r}, run_name='__main__')\n"
        "assert not {'torch', 'transformers', 'hydra'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split()[:5] == ["#", "table1", "3", "1", "2"]


def test_a_plan_that_no_run_fits_is_one_sentence_with_exit_code_2(called: Callable[..., Ended]) -> None:
    wrong = called("scripts/report.py", "plan", "table=1", "seed=7")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "error: table1: no run fits seed=7; seed is one of: 0, 42, 100.\n",
    )


def test_a_planned_line_runs_in_a_shell_without_the_environment(repo: Path, tmp_path: Path) -> None:
    words = ["plan", "table=1", "task=sst2", "method=full", "seed=0", f"results_dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, str(repo / "scripts" / "report.py"), *words],
        capture_output=True,
        text=True,
        cwd=repo,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
    )
    assert done.returncode == 0, done.stderr
    python, program, *_ = shlex.split(done.stdout.splitlines()[0])
    assert program == "run.py" and (repo / python).samefile(sys.executable)
