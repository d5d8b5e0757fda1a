"""Every method through a generation run: trained, decoded with, proved; words and head stay frozen."""

from __future__ import annotations

import json

import pytest
import torch
from test_generation_run import write
from tiny_runs import composed, weights

from layertune import pipeline
from layertune.errors import JavaError
from layertune.evaluation.nlg import scorer
from layertune.records import Store

# Of the methods here two train the words, and with them the head they are tied to, as their sources do.
TRAINS_WORDS = ("slimfit", "lisa")
BF16, PARTS = "train.precision=bf16", "train.micro_batch=4"
CASES = (
    ("method=lora", PARTS),
    ("method=ia3", BF16),
    ("method=prefix", "method.length=4", PARTS),
    ("method=adapters", "train.activation_checkpointing=true"),
    ("method=lift", "train.epochs=4", BF16),  # 15 rows in batches of 8: two steps per layer
    ("method=lift", "train.activation_checkpointing=true"),  # one step per layer, the first at rate zero
    ("method=slimfit", "method.quantise=true", PARTS),
    ("method=recap", "method.rounds=1", BF16, PARTS),
    ("method=recap", "method.rounds=1", "+model.random_config.tie_word_embeddings=false"),
    ("method=lisa", "method.layers=2", "method.every=1"),
    ("method=lisa", "method.layers=1", "method.freeze_embeddings=true", BF16),
)


@pytest.fixture
def no_java(monkeypatch):
    """METEOR takes seconds to start, and is tested elsewhere."""

    def missing(path=None):
        raise JavaError("no Java here")

    monkeypatch.setattr(scorer, "find_java", missing)


@pytest.fixture
def kept(monkeypatch):
    """Keep the model of a run, and what it was before the method touched it."""
    found = {}
    real = pipeline.build_model

    def building(*arguments):
        found["model"] = real(*arguments)
        found["before"] = weights(found["model"])
        return found["model"]

    monkeypatch.setattr(pipeline, "build_model", building)
    return found


@pytest.mark.usefixtures("no_java")
@pytest.mark.parametrize("options", CASES, ids=" ".join)
def test_a_method_trains_through_a_generation_run(tmp_path, kept, options):
    run = composed(
        "model=tiny_gpt2",
        "task=e2e",
        "tracking=disabled",
        f"data_dir={write(tmp_path / 'data')}",
        f"outputs_dir={tmp_path / 'outputs'}",
        f"results_dir={tmp_path / 'results'}",
        "eval_generation=last",
        "task.decoding.num_beams=2",
        "task.decoding.max_new_tokens=4",
        "train.epochs=2",
        "train.learning_rate=1e-2",
        *options,
    )
    record = pipeline.execute(run, Store(run.results_dir, run.outputs_dir))
    assert record.status == "done" and record.training.history[-1]["loss"] > 0
    checks = record.checks
    assert (checks.trained_changed, checks.loss_finite, checks.trainable_matches_selection) == (True,) * 3
    assert checks.frozen_unchanged is not False and checks.beats_majority is None
    assert isinstance(record.metrics.last["e2e"]["bleu"], float) and record.metrics.best is None
    assert len(list((tmp_path / "outputs" / "predictions").iterdir())) == 1

    names = [name for name in kept["before"] if "wte" in name or "wpe" in name or name == "head.weight"]
    assert len(names) == 2 + any("tie_word" in option for option in options)
    after = weights(kept["model"])
    moved = [name for name in names if not torch.equal(after[name], kept["before"][name])]
    trains_words = run.method.name in TRAINS_WORDS and not run.method.options.get("freeze_embeddings")
    assert bool(moved) is trains_words
    assert json.loads(record.to_json())["model"]["trainable"]["head"] == 0
