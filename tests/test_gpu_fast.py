"""Steps on a CUDA device (make test-gpu): graphs and caches there compute what the plain loop does."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import NO_DROPOUT, assert_resumes_exactly, assert_same, weights

from layertune.fast import PlainStepper
from layertune.training import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]

WHOLE = pytest.mark.whole  # on a pretended device; make test-gpu and make rehearsal run all
OPTIONS = ("train.device=cuda", "method=top_k", "method.k=2", "cache.dtype=fp32", "train.epochs=2")


@pytest.fixture
def graphs(monkeypatch):
    """Collect the graphs that runs make."""
    found = []
    capturing = PlainStepper._capturing

    def noting(self, phases):
        found.append(capturing(self, phases))
        return found[-1]

    monkeypatch.setattr(PlainStepper, "_capturing", noting)
    return found


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=WHOLE)])
def test_captured_steps_train_as_plain_ones_do(prepared, graphs, precision):
    options = (*OPTIONS, f"train.precision={precision}", *NO_DROPOUT["tiny_bert"])
    ways = (("train=published", "train.graphs=off"), ("train=published",), ("train=fast",))
    plain, captured, fast = (prepared(*options, *way) for way in ways)
    for case in (plain, captured):
        train(*case.parts)
    assert train(*fast.parts).cache.place.startswith("device")
    off, *both = graphs
    assert off is None and all(steps.graphs and steps.fallen_back is None for steps in both)
    for case in (captured, fast):
        assert_same(weights(plain.model), weights(case.model), atol=1e-4 if precision == "fp32" else 2e-3)


def test_dropout_draws_anew_in_every_replay(prepared, graphs):
    case = prepared(*OPTIONS, "train=fast", "train.learning_rate=1e-9")
    train(*case.parts)
    (steps,) = graphs
    graph = next(iter(steps.graphs.values()))
    case.model.train()
    losses = {float(steps(graph.batch, 1.0)) for _ in range(4)}
    assert len(losses) == 4


@pytest.mark.parametrize("mode", [pytest.param("published", marks=WHOLE), "fast"])
def test_a_captured_run_resumes_exactly(prepared, monkeypatch, mode):
    """With dropout: shapes are captured anew after the resume, and a capture draws nothing."""
    deterministic = ("train.deterministic=true", "train.batch_size=16", f"train={mode}")
    assert_resumes_exactly(prepared, monkeypatch, *OPTIONS[:-1], *deterministic)
