"""Captures that succeed, and those that fail after they have begun, on a pretended device."""

from __future__ import annotations

import pytest
import torch
from tiny_models import DECODERS, ENCODERS, batch_of, tiny_task_model
from tiny_runs import NO_DROPOUT, assert_same, compose_tiny, prepare, weights, whole_but

from layertune.config import TrainSpec
from layertune.errors import CaptureError
from layertune.fast.graphs import CudaRecorder, StepGraphs, why_no_graphs
from layertune.fast.last_layer import OneToken, why_not_one_token
from layertune.pipeline import execute
from layertune.records import Store
from layertune.training import train

pytestmark = pytest.mark.pretended

OPTIONS = (
    "train=fast",
    "train.device=cuda",
    "method=top_k",
    "method.k=2",
    "cache.dtype=fp32",
    "train.epochs=1",
)


@pytest.mark.parametrize(
    "kind", whole_but((kind in ("bert", "deberta", "gpt2", "llama"), kind) for kind in [*ENCODERS, *DECODERS])
)
def test_a_step_of_every_architecture_is_captured_and_replayed_or_is_refused_before(kind):
    """Refused are those whose masks an older transformers copies to the device."""
    model = tiny_task_model(kind)
    refused = why_no_graphs(model, TrainSpec(), steady=True)
    for layer in model.backbone.layers[:2]:
        layer.requires_grad_(False)
    model.to("cuda")
    model.backbone.last_block = None if why_not_one_token(model.backbone) else OneToken
    parameters = [p for p in model.parameters() if p.requires_grad]

    def gradient(batch, share):
        part = model(batch).loss * share
        part.backward()
        return part.detach()

    def gradients():
        found = [None if p.grad is None else p.grad.clone() for p in parameters]
        for parameter in parameters:
            parameter.grad = None
        return found

    step = StepGraphs(gradient, parameters, CudaRecorder(), "cuda")
    for lengths in ([8, 6, 8], [8, 8, 8], [3, 8, 1]):
        batch = batch_of(lengths, seed=len(lengths)).pinned()
        loss, ours = step(batch, 1.0), gradients()
        assert loss.tolist() == gradient(batch.to("cuda"), 1.0).tolist()
        for mine, theirs in zip(ours, gradients(), strict=True):
            assert (mine is None) == (theirs is None)
            assert mine is None or mine.tolist() == theirs.tolist()
    assert (len(step.graphs), step.fallen_back) == (1, None) if refused is None else step.fallen_back


@pytest.mark.parametrize("poisons", [False, True])
def test_a_run_whose_capture_fails_goes_on_as_one_without_graphs(tmp_path, pretended, poisons):
    """With dropout: it draws what a run draws that never tried."""
    ends = {}
    pretended.poisons = poisons
    for switch in ("off", "auto"):
        case = prepare(compose_tiny(tmp_path / switch, *OPTIONS, f"train.graphs={switch}"))
        pretended.refused = "native_layer_norm_backward"
        stream = torch.cuda.current_stream()
        outcome = train(*case.parts)
        assert torch.cuda.current_stream() is stream
        ends[switch] = weights(case.model)
        assert ("given up" in outcome.graphs) == (switch == "auto")
    assert "native_layer_norm_backward" in outcome.graphs
    assert_same(ends["off"], ends["auto"])


def test_graphs_are_switched_off_without_another_identity(tmp_path):
    on, off = (compose_tiny(tmp_path, *OPTIONS, f"train.graphs={switch}") for switch in ("auto", "off"))
    assert on.config_sha256 == off.config_sha256
    record = execute(off, Store(off.results_dir, off.outputs_dir))
    assert record.training.graphs == "train.graphs=off"


def test_a_device_that_cannot_go_on_ends_the_run_with_the_switch(tmp_path, pretended, monkeypatch):
    case = prepare(compose_tiny(tmp_path, *OPTIONS))
    pretended.refused = "native_layer_norm_backward"

    def broken(*_):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(pretended.generator, "graphsafe_set_state", broken)
    with pytest.raises(CaptureError, match=r"train\.graphs=off"):
        train(*case.parts)


def test_steps_of_both_ways_end_alike(tmp_path):
    ends = []
    for switch in ("auto", "off"):
        options = (*OPTIONS, *NO_DROPOUT["tiny_bert"], f"train.graphs={switch}")
        case = prepare(compose_tiny(tmp_path / switch, *options))
        outcome = train(*case.parts)
        ends.append(weights(case.model))
    assert outcome.graphs == "train.graphs=off"
    assert_same(*ends)
