"""Graphs of a step: the logic around the capture, with a recorder that runs on a CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import batch_of, tiny_task_model

from layertune.config import TrainSpec
from layertune.fast import graphs
from layertune.fast.cache import run_below
from layertune.fast.graphs import StepGraphs, why_no_graphs
from layertune.tasks.encode import LowerLayers


class CpuRecorder:
    """Stands for the device: a replay reads and writes the very tensors of the recording, nothing else."""

    def __init__(self, fail: bool = False) -> None:
        self.recorded = self.replayed = 0
        self.fail = fail

    def record(self, function):
        if self.fail:
            raise RuntimeError("operation not permitted when stream is capturing\nlong trace")
        self.recorded += 1
        outputs = [tensor.clone() for tensor in function()]

        def replay():
            self.replayed += 1
            for kept, new in zip(outputs, function(), strict=True):
                kept.copy_(new)

        return outputs, replay


@pytest.fixture
def model():
    model = tiny_task_model("bert")
    model.requires_grad_(False)
    for part in (model.head, model.backbone.layers[3]):
        part.requires_grad_(True)
    return model


def gradient_of(model):
    def gradient(batch, share):
        part = model(batch).loss * share
        part.backward()
        return part.detach()

    return gradient


def parameters_of(model):
    return [p for p in model.parameters() if p.requires_grad]


def prefixed(model, batch):
    states, vectors = run_below(model.backbone, batch, 4)
    return replace(batch, lower=LowerLayers(4, states, vectors))


def test_replays_leave_the_gradients_and_the_loss_of_each_batch(model):
    recorder = CpuRecorder()
    step = StepGraphs(gradient_of(model), parameters_of(model), recorder)
    batches = [prefixed(model, batch_of([8, 5], seed=seed, width=8)) for seed in range(3)]
    batches += [batch_of([8, 5], seed=7, width=8), batch_of([12, 9, 4], seed=8, width=16)]
    for batch in batches + batches:
        model.zero_grad(set_to_none=True)
        loss = step(batch, 1.0)
        found = [p.grad.clone() for p in parameters_of(model)]
        model.zero_grad(set_to_none=True)
        assert torch.equal(loss, gradient_of(model)(batch, 1.0))
        for ours, parameter in zip(found, parameters_of(model), strict=True):
            assert torch.equal(ours, parameter.grad)
    assert recorder.recorded == 3  # with a prefix, without, another width
    assert recorder.replayed == 10


def test_graphs_of_all_shapes_share_one_set_of_gradients(model):
    step = StepGraphs(gradient_of(model), parameters_of(model), CpuRecorder())
    places = []
    for width in (8, 16, 24):
        step(batch_of([8, 5], width=width), 1.0)
        places.append([p.grad.data_ptr() for p in parameters_of(model)])
        model.zero_grad(set_to_none=True)
    assert places[0] == places[1] == places[2]


def test_an_optimiser_steps_on_replayed_gradients(model):
    other = tiny_task_model("bert")
    other.load_state_dict(model.state_dict())
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    batches = [batch_of([8, 5], seed=seed, width=8) for seed in range(4)]
    for trained, step in (
        (model, StepGraphs(gradient_of(model), parameters_of(model), CpuRecorder())),
        (other, gradient_of(other)),
    ):
        optimizer = torch.optim.AdamW(parameters_of(trained), lr=1e-3, fused=True)
        for batch in batches:
            step(batch, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_capture_that_fails_is_said_once_and_the_run_goes_on(model, caplog):
    step = StepGraphs(gradient_of(model), parameters_of(model), CpuRecorder(fail=True))
    batch = batch_of([8, 5], width=8)
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        loss = step(batch, 0.5)
        assert loss == model(batch).loss * 0.5
        assert all(p.grad is not None for p in parameters_of(model))
    assert caplog.text.count("not used any more") == 1
    assert step.fallen_back == "operation not permitted when stream is capturing"


def test_after_a_capture_that_fails_no_graph_is_replayed(model):
    """Those captured before draw from a state of the generator that the run has left."""
    recorder = CpuRecorder()
    step = StepGraphs(gradient_of(model), parameters_of(model), recorder)
    step(batch_of([8, 5], width=8), 1.0)
    recorder.fail = True
    step(batch_of([8, 5], width=16), 1.0)
    step(batch_of([8, 5], width=8), 1.0)
    assert recorder.replayed == 1


def test_only_so_many_shapes_are_captured(model, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_SHAPES", 2)
    recorder = CpuRecorder()
    step = StepGraphs(gradient_of(model), parameters_of(model), recorder)
    for width in (8, 16, 24, 8):
        step(batch_of([8, 5], width=width), 1.0)
    assert recorder.recorded == 2 and recorder.replayed == 3


def test_why_steps_are_not_captured(model, monkeypatch):
    assert why_no_graphs(model, TrainSpec(), steady=True) is None
    assert "changes on the way" in why_no_graphs(model, TrainSpec(), steady=False)
    for word, asked in (
        ("graphs=off", TrainSpec(graphs="off")),
        ("micro-batches", TrainSpec(micro_batch=4)),
        ("random numbers", TrainSpec(activation_checkpointing=True)),
    ):
        assert word in why_no_graphs(model, asked, steady=True)
    model.kind = "generation"
    assert "learnt tokens" in why_no_graphs(model, TrainSpec(), steady=True)


def test_a_step_whose_kernels_depend_on_the_values_of_a_batch_is_not_captured(monkeypatch):
    """The library leaves out a mask where nothing is padded, and copied those of eager attention."""
    unknown = tiny_task_model("bert")
    unknown.backbone.model.config.is_decoder = True
    assert "depends on the batch" in why_no_graphs(unknown, TrainSpec(), steady=True)
    eager = tiny_task_model("deberta")
    assert why_no_graphs(eager, TrainSpec(), steady=True) is None
    monkeypatch.setattr(graphs.transformers, "__version__", "5.17.0")
    assert "5.17.0" in why_no_graphs(eager, TrainSpec(), steady=True)
    assert why_no_graphs(tiny_task_model("bert"), TrainSpec(), steady=True) is None
