"""`python run.py -m hydra/sweeper=landscape`: every set of layers once, a row each, resumable and shared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from programs import own_logging, program

from layertune.config.compose import compose_run
from layertune.evaluation.evaluate import watched
from layertune.evaluation.metrics import accuracy
from layertune.landscape.rows import Ground, Row, path_of, read_rows
from layertune.landscape.sweep import drawn, every_set, lacking
from layertune.pipeline import execute
from layertune.records import Store

TINY = ("model=tiny_bert", "task=demo", "protocol=smoke", "train.epochs=2")
SWEEP = ("-m", "hydra/sweeper=landscape", *TINY)


@pytest.fixture(scope="module")
def swept(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the landscape of two layers of four."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch, own_logging():
        patch.chdir(folder)
        assert program(repo / "run.py", (*SWEEP, "k=2"), patch) == 0
    return folder


@pytest.fixture
def call(request, repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a caller of run.py: in the folder of the landscape where a test has it, else in an empty one."""
    has_one = "swept" in request.fixturenames
    monkeypatch.chdir(request.getfixturevalue("swept") if has_one else tmp_path)
    with own_logging():
        yield lambda *arguments: program(repo / "run.py", arguments, monkeypatch)


def answers_of(ground: Ground, row: Row) -> np.ndarray:
    answers = np.array(ground.gold)
    for place, answer in row.wrong:
        answers[place] = answer
    return answers


def the_file(folder: Path) -> Path:
    (path,) = (folder / "results" / "landscapes").glob("*.jsonl")
    return path


def test_every_set_of_three_of_five_layers_and_every_size():
    assert len(list(every_set(5, 3))) == 10 and len(list(every_set(12, 3))) == 220
    assert len(list(every_set(6, None))) == 62  # 2^6 less none and all
    assert list(every_set(3, None)) == [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3)]


def test_a_landscape_holds_every_set_once(swept):
    ground, rows = read_rows(the_file(swept))
    assert [row.layers for row in rows] == [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]
    assert (ground.model, ground.num_layers, ground.metric) == ("tiny_bert", 4, "accuracy")
    assert len({row.loss for row in rows}) == 6
    for row in rows:  # the predictions, put together again, have the score of the run
        assert accuracy(answers_of(ground, row), np.array(ground.gold)) == pytest.approx(row.score)
        assert row.seconds > 0 and row.checks.failures() == []
    assert not (swept / "results" / "runs").exists()  # a landscape is small: records are scratch


def test_sets_of_one_lowest_layer_share_one_cache(swept):
    facts = [json.loads(path.read_text()) for path in (swept / "outputs" / "cache").rglob("facts.json")]
    layers = sorted(one["key"]["layer"] for one in facts if "layer" in one.get("key", {}))
    assert layers == [2, 3]  # nothing lies below layer 1
    rows = {row.layers: row for row in read_rows(the_file(swept))[1]}
    assert min(rows[2, 3].cache_seconds, rows[2, 4].cache_seconds) > 0 == rows[1, 2].cache_seconds


def test_the_same_command_runs_what_is_not_there(swept, call, capsys):
    before = the_file(swept).read_bytes()
    assert call(*SWEEP, "k=2") == 0
    assert "6 of 6 sets and seeds are there" in capsys.readouterr().out
    assert the_file(swept).read_bytes() == before
    lines = before.splitlines()
    the_file(swept).write_bytes(b"\n".join(lines[:-1]) + b"\n")  # the last is lost, its record is not
    assert call(*SWEEP, "k=2") == 0
    *others, again = (json.loads(line) for line in the_file(swept).read_bytes().splitlines())
    lost = json.loads(lines[-1])
    assert len(others) == 6 and {again[key] == lost[key] for key in ("layers", "loss", "score", "wrong")} == {
        True
    }
    the_file(swept).write_bytes(before)


def test_rows_drawn_by_seed_are_what_a_run_of_its_own_reaches(swept, tmp_path):
    """The independent check: `method=layers`, in another store, bit for bit down to each answer."""
    ground, rows = read_rows(the_file(swept))
    for index in np.random.default_rng(0).choice(len(rows), 2, replace=False):
        row = rows[index]
        layers = ",".join(map(str, row.layers))
        run = compose_run(
            *TINY,
            *("method=layers", f"method.layers=[{layers}]", "train=fast", "grid=tuned", "tracking=disabled"),
            *(
                "train.precision=bf16",
                "train.batch_size=16",
                f"results_dir={tmp_path / 'b'}",
                f"outputs_dir={tmp_path / 'c'}",
            ),
        )
        seen = {}
        with watched(lambda split, predictions, seen=seen: seen.update({split.name: predictions})):
            record = execute(run, Store(run.results_dir, run.outputs_dir))
        assert record.headline() == (ground.metric, row.score) and record.headline("best")[1] == row.best
        assert record.training.history[-1]["loss"] == row.loss
        assert np.array_equal(seen["demo"], answers_of(ground, row))


@pytest.mark.slow
def test_the_script_trains_drawn_rows_again_and_names_what_differs(swept, monkeypatch, repo, capsys):
    monkeypatch.chdir(swept)
    script = repo / "scripts" / "check_landscape.py"
    assert program(script, (*TINY, "k=2", "--rows=1"), monkeypatch) == 0
    assert "1 of 1 rows agree bit for bit" in capsys.readouterr().out
    kept = {path: path.stat().st_mtime_ns for path in Path("outputs/check_landscape").rglob("*.json")}
    ((_, row),) = drawn([*TINY, "k=2"], 1)
    text = the_file(swept).read_text()
    the_file(swept).write_text(text.replace(f'"loss":{row.loss!r}', '"loss":0.5'))
    assert program(script, (*TINY, "k=2", "--rows=1"), monkeypatch) == 1
    assert f"{row.run_id}: loss 0.5, again {row.loss!r}" in capsys.readouterr().out
    assert kept and kept == {path: path.stat().st_mtime_ns for path in kept}  # what was trained again stays
    the_file(swept).write_text(text)


def test_what_a_landscape_lacks_starts_with_the_lowest_layers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs, _ = lacking([*TINY, "k=all", "seed=0,1"])
    lowest = [run.method.options["layers"][0] for run in runs]
    assert lowest == sorted(lowest) and len(runs) == 2 * 14
    for run in (runs[0], runs[-1]):
        composed = compose_run(*run.overrides)
        assert composed.config_sha256 == run.config_sha256
        assert path_of(composed) == path_of(runs[0])
    assert {run.train.mode for run in runs} == {"fast"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["k=3"], "model is missing"),
        ([*TINY], "k is missing"),
        ([*TINY, "k=4"], "between 1 and 3"),
        ([*TINY, "k=some"], "or all"),
        ([*TINY, "k=2", "method=high_k"], "its method is layers"),
        ([*TINY, "k=2", "train.epochs=1,2"], "one value of train.epochs"),
        ([*TINY, "k=2", "seed=0,0"], "different"),
        ([*TINY, "k=2", "train.epoch=1"], "train.epoch does not exist"),
    ],
)
def test_a_wrong_request_runs_nothing(call, tmp_path, capsys, words, sentence):
    assert call("-m", "hydra/sweeper=landscape", *words) == 2
    assert sentence in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
