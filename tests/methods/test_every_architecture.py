"""LIFT, LISA, SlimFit and RECAP train three steps on every architecture, and the proof holds."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest
from tiny_models import ENCODERS, EXTRA, SMALL
from tiny_runs import compose_tiny, whole_but

from layertune.pipeline import execute
from layertune.records import Store

# BERT and GPT-2 are trained in every other test; deberta is version 1, deberta-v2 also version 3.
ARCHITECTURES = ["roberta", "electra", "deberta", "deberta-v2", "mpnet", "gemma2", "llama"]
METHODS = {
    "lift": ("method.order=cyclic", "method.period=1"),  # layers 1, 2, 3
    "lisa": ("method.layers=2", "method.every=1"),
    "slimfit": ("method.quantise=true",),
    "recap": ("method.rounds=1", "method.prune=0.25"),  # phases of one step and of two
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all, so that the rows are encoded twice and not thirty times."""
    return tmp_path_factory.mktemp("architectures")


@pytest.mark.parametrize(
    ("method", "model_type"),
    whole_but(  # each architecture with two of them
        ((row + column) % 2 == 0, (method, model_type))
        for (row, method), (column, model_type) in product(enumerate(METHODS), enumerate(ARCHITECTURES))
    ),
)
def test_three_steps_train_what_the_method_says(folder, method, model_type):
    run = compose_tiny(
        folder,
        f"model={'tiny_bert' if model_type in ENCODERS else 'tiny_gpt2'}",
        f"method={method}",
        "train.batch_size=24",  # 64 rows: three steps in one epoch
        "train.epochs=1",
        "train.learning_rate=1e-3",
        *METHODS[method],
    )
    shape = {**SMALL, **EXTRA.get(model_type, {}), "vocab_size": 768, "max_position_embeddings": 80}
    model = dataclasses.replace(
        run.model, random_config={"model_type": model_type, **shape}, max_positions=None
    )
    run = dataclasses.replace(run, model=model, force=True)  # the shape is no part of a run's identity
    record = execute(run, Store(run.results_dir, run.outputs_dir))
    assert record.status == "done" and record.training.steps == 3
    checks = record.checks
    assert (checks.trained_changed, checks.loss_finite, checks.trainable_matches_selection) == (True,) * 3
    assert checks.frozen_unchanged is not False
    if method == "lift":  # the head and one layer at a time, of four
        assert record.model.trainable["touched"] > record.model.trainable["at_once"]
