"""The command line as a hurried user meets it: one sentence, an exit code, nothing written."""

from __future__ import annotations

import subprocess
import sys

import pytest
from processes import forked
from tiny_runs import DEFAULTS, compose_tiny

from layertune.pipeline import execute
from layertune.records import Store


@pytest.fixture
def words_of(tmp_path):
    """Return a function that completes a command line to a tiny run in the test's folder."""

    def complete(*arguments):
        given = {item.split("=")[0].lstrip("+") for item in arguments}
        chosen = [item for item in DEFAULTS if item.split("=")[0] not in given]
        folders = (f"outputs_dir={tmp_path / 'outputs'}", f"results_dir={tmp_path / 'results'}")
        return [*arguments, *chosen, *folders]

    return complete


@pytest.fixture
def command(called, words_of, tmp_path, monkeypatch):
    """Return a function that runs `run.py` in this process, in the test's folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: called("run.py", *words_of(*arguments))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.epoch=3"], ["train.epoch does not exist", "epochs", "Did you mean 'epochs'"]),
        (["+method.zz=3"], ["method.zz does not exist", "selector"]),
        (["model=tiny_brt"], ["model=tiny_brt does not exist", "tiny_bert"]),
        (["method=lowk"], ["method=lowk does not exist", "low_k"]),
        (["train.epochs=many"], ["train.epochs='many' is not allowed", "an integer"]),
        (["grid=huge"], ["grid='huge' is not allowed", "paper | fair"]),
        (["method.k=4"], ["method.k=4 is out of range", "between 1 and 3"]),
        (["method.k=0"], ["method.k=0 is out of range", "between 1 and 3"]),
        (["task=trec", "data_dir=nowhere"], ["data_dir=nowhere is not a folder"]),
        (["model=gte_small", "model.path=nowhere"], ["nowhere"]),
        (["--foo"], ["--foo"]),
        (["-m", "--cfg", "job"], ["Only one"]),
        (
            ["+model.random_config.num_attention_heads=0"],
            ["num_attention_heads is there already", "without the +"],
        ),
        (["train.num_threads=100000"], ["train.num_threads"]),
        (["model=deberta", "model.path=.", "train.precision=bf16"], ["train.precision=bf16", "fp32"]),
    ],
)
def test_a_wrong_request_is_one_sentence_and_leaves_nothing(command, tmp_path, arguments, words):
    done = command(*arguments)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("layertune: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert list(tmp_path.iterdir()) == []


def test_a_missing_group_lists_the_choices(called, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = called("run.py", "model=tiny_bert", "task=demo")
    assert done.returncode == 2
    assert done.stderr.startswith("layertune: ") and "method" in done.stderr and "low_k" in done.stderr


def test_help_and_the_composed_configuration_import_nothing_heavy(repo, tmp_path):
    program = (
        "import sys, runpy; sys.argv = ['run.py', *{arguments}]\n"
        "try:\n    runpy.run_path({path!r}, run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    for arguments, word in (
        (["--help"], "block_high"),
        (["--cfg", "job", *DEFAULTS], "name: tiny_bert"),
    ):
        code = program.format(arguments=arguments, path=str(repo / "run.py"))
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert word in done.stdout


def test_a_run_prints_its_layers_and_its_score(repo, words_of, tmp_path):
    """In a process of its own, as a person starts it."""
    done = forked(repo / "run.py", words_of("method.k=2"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "layers" in done.stdout and "accuracy" in done.stdout
    (record,) = (tmp_path / "outputs" / "records").glob("*.json")
    assert record.stem in done.stdout


@pytest.mark.slow
def test_a_sweep_makes_a_record_of_every_combination(command, tmp_path):
    done = command("-m", "method=head_only", "seed=0,1", "train.head_learning_rate=0.001,0.9999")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "outputs" / "records").glob("*.json"))) == 4


def test_half_a_record_is_named_and_force_replaces_it(command, tmp_path):
    run, forced = compose_tiny(tmp_path), compose_tiny(tmp_path, "force=true")
    store = Store(run.results_dir, run.outputs_dir)
    execute(run, store)
    path = store.path(run)
    path.write_text(path.read_text()[:500])
    done = command()
    assert done.returncode == 1
    assert path.name in done.stderr and "complete" in done.stderr
    assert done.stderr.count("\n") == 1
    assert execute(forced, store).status == store.status(run) == "done"
