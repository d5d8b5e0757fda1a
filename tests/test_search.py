"""A search, from the command line to the run that uses what it found: in this process, with a tiny model."""

from __future__ import annotations

import importlib.util
import json

import pytest
from omegaconf import OmegaConf
from programs import own_logging, program

from layertune.records import read_record

BASE = ("model=tiny_bert", "task=cr", "method=full", "tracking=disabled")
BATCH = "train.batch_size=8"


@pytest.fixture
def call(repo, tmp_path, monkeypatch):
    """Return a caller of run.py in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "rows" / "cr"
    folder.mkdir(parents=True)
    for split in ("train", "test"):  # one word decides: a high rate learns it at once
        rows = [f"{('poor', 'good')[i % 2]} item {i},{i % 2}" for i in range(200)]
        (folder / f"{split}.csv").write_text("\n".join(["sentence,label", *rows]))
    monkeypatch.setenv("LAYERTUNE_DATA", "rows")
    with own_logging():
        yield lambda *arguments: program(repo / "run.py", arguments, monkeypatch)


@pytest.fixture
def script(repo, monkeypatch):
    """Return a caller of scripts/choose_recipe.py."""
    return lambda *arguments: program(repo / "scripts" / "choose_recipe.py", arguments, monkeypatch)


def found_in(folder):
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("outputs/records/*.json")}


@pytest.mark.slow
def test_a_search_finds_a_rate_and_the_next_run_takes_it(call, script, tmp_path, capsys):
    search = ("sweep=rates", "grid=fair", "+method.grids.fair=[1e-5,3e-3]", "train.epochs=2,1")
    assert call(*search, *BASE, BATCH) == 0
    scores = {}
    for name, record in found_in(tmp_path).items():
        assert record["spec"]["protocol"] == "search" and record["spec"]["grid"] == "fair"
        assert record["data"]["counts"] == {"train": 180, "cr": 20}  # a tenth of 200 rows is held out
        training = record["training"]
        assert training["origin"]["learning_rate"] == "command line"
        assert training["head_learning_rate"] == 5e-5
        key = (-record["metrics"]["last"]["cr"]["accuracy"], training["learning_rate"], training["epochs"])
        scores[key] = name
    assert len(scores) == 4 and len({key[0] for key in scores}) > 1  # the rates make a difference
    _, rate, epochs = min(scores)

    assert script("tiny_bert", "--method", "low_k") == 2  # the records are of another
    capsys.readouterr()
    assert script("tiny_bert", "--recipes", "mine/recipe", "--method", "low_k,full") == 0
    shown = capsys.readouterr().out
    assert f"rate {rate:g}, {epochs} epochs, batch 8" in shown and "written: mine/recipe" in shown
    entry = OmegaConf.load(tmp_path / "mine/recipe/tiny_bert.yaml").cr.full.fair
    assert (entry.learning_rate, entry.epochs, entry.batch_size) == (rate, epochs, 8)
    assert list(entry.records) == sorted(scores.values())

    for grid, origin in (("fair", "recipe"), ("paper", "built-in")):
        outputs = tmp_path / grid
        smoke = ("protocol=smoke", f"grid={grid}", f"outputs_dir={outputs}")
        assert call("--config-dir=mine", *smoke, *BASE) == 0
        (path,) = (outputs / "records").glob("*.json")
        training = read_record(path).training
        assert training.origin["learning_rate"] == origin
        assert (training.learning_rate == rate) == (grid == "fair")


def test_a_script_without_a_search_says_how_to_make_one(script, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert script("tiny_bert", "--grid", "fair") == 2
    line = capsys.readouterr().err
    assert line.startswith("error: no search of tiny_bert under grid=fair") and line.count("\n") == 1


@pytest.mark.skipif(
    importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None,
    reason="hydra-optuna-sweeper is not installed (extra: search)",
)
def test_an_optimising_sweeper_receives_the_score_of_every_run(call, tmp_path):
    space = ("train.learning_rate=tag(log,interval(1e-5,3e-3))", "train.epochs=1", "hydra.sweeper.n_trials=3")
    assert call("sweep=optuna", *space, *BASE, BATCH) == 0
    records = found_in(tmp_path).values()
    assert len(records) == 3
    best = max(record["metrics"]["last"]["cr"]["accuracy"] for record in records)
    result = OmegaConf.load(tmp_path / "multirun" / "optimization_results.yaml")
    assert result.best_value == best
    rates = {
        record["training"]["learning_rate"]
        for record in records
        if record["metrics"]["last"]["cr"]["accuracy"] == best
    }
    assert result.best_params["train.learning_rate"] in rates
