"""Runs of a method on two devices, held against each other: CUDA in test_gpu.py, CPU in test_devices.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import NO_DROPOUT, Prepared, compose_tiny, options_of

from layertune.evaluation.evaluate import predict
from layertune.models import TaskModel
from layertune.pipeline import execute
from layertune.records import Record, Store
from layertune.training import loop, train

Prepare = Callable[..., Prepared]

MODELS = ["tiny_bert", "tiny_gpt2"]
# What a method draws in training, off; of RECAP fewer rounds, each a chance for a near tie to fall otherwise.
STEADY = {"lora": ("method.dropout=0.0",), "recap": ("method.rounds=1",)}
# With weights as small as usual all layers of a random model say the same: no score could be wrong by much.
LARGE_WEIGHTS = "+model.random_config.initializer_range=0.2"
# A random BERT of the size of BERT-base, with the small vocabulary of the tiny ones.
BASE_SIZE = (
    "model.num_layers=12",
    "model.random_config.num_hidden_layers=12",
    "model.random_config.hidden_size=768",
    "model.random_config.num_attention_heads=12",
    "model.random_config.intermediate_size=3072",
)


def first_step(case: Prepared) -> tuple[float, dict[str, torch.Tensor]]:
    """Take one step; return its loss and the gradients it stepped on."""
    gradients = {}
    acts = case.method.after_backward

    def noting(model: TaskModel, step: int) -> None:
        acts(model, step)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                gradients[name] = parameter.grad.detach().cpu().clone()

    case.method.after_backward = noting
    a_loop = loop._Loop(case.run, case.model, case.data, case.method, case.runtime, case.track)
    case.model.train()
    return float(a_loop._step(a_loop.batches(1)[0])), gradients


def losses_and_answers(case: Prepared) -> tuple[list[float], np.ndarray]:
    """Train; return the losses, and the answers of the model evaluated last (RECAP's is a pruned one)."""
    evaluated = []
    picks = case.method.eval_model
    case.method.eval_model = lambda model: evaluated.append(picks(model)) or evaluated[-1]
    losses = [entry["loss"] for entry in train(*case.parts).history]
    return losses, predict(evaluated[-1], case.data.evals["demo"], case.runtime, 16)


def assert_equal_on(device: str, prepared: Prepare, method: str, model: str) -> None:
    """Hold a device against the CPU: scores, layers, the first step's gradients, losses and answers.

    Weights after several steps are no fair comparison: Adam blows a gradient that should be zero (that of a
    key's bias) up to a full step.
    """
    options = (*options_of(method, model), *NO_DROPOUT[model], *STEADY.get(method, ()))

    def pair(*more: str, folder: str = "") -> tuple[Prepared, Prepared]:
        given = (*options, *more)
        ours = prepared(device, *given, folder=f"ours{folder}")
        return ours, prepared("cpu", *given, folder=f"reference{folder}")

    ours, reference = pair()
    if method != "recap":  # its whole model stays on the CPU
        assert ours.model.device.type == device
    assert reference.model.device.type == "cpu"
    assert ours.prep.layers == reference.prep.layers
    assert ours.prep.expected_trainable == reference.prep.expected_trainable
    if reference.prep.scores is not None:
        assert not ours.prep.reused
        scores, others = (case.prep.scores for case in pair(LARGE_WEIGHTS, folder="-scores"))
        np.testing.assert_allclose(scores.values, others.values, rtol=1e-4, atol=1e-6)
    (loss, gradients), (other_loss, others) = first_step(ours), first_step(reference)
    assert loss == pytest.approx(other_loss, rel=1e-4)
    assert gradients.keys() == others.keys() and gradients
    for name, gradient in others.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5, msg=name)

    (losses, answers), (other_losses, other_answers) = map(losses_and_answers, pair())
    assert losses == pytest.approx(other_losses, rel=1e-3)
    assert (answers == other_answers).mean() >= 0.95  # a tie may fall either way


def assert_bf16_holds_on(device: str, folder: Path, method: str, model: str) -> None:
    """Train 20 steps in each precision: finite, engaged, near each other, and not the same."""
    losses = {}
    for precision in ("bf16", "fp32"):
        record = executed(
            folder,
            device,
            *options_of(method, model),
            *NO_DROPOUT[model],
            *STEADY.get(method, ()),
            f"train.precision={precision}",
            "train.batch_size=16",  # of 64 rows
            "train.epochs=5",
        )
        assert record.env.precision == precision and record.training.steps == 20
        losses[precision] = record.training.history[-1]["loss"]
    assert math.isfinite(losses["bf16"])
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["bf16"] != losses["fp32"]  # it really was another precision


def assert_measured_on(device: str, folder: Path, method: str, *shape: str, steps: int = 20) -> Record:
    """Train in bf16 under the timing protocol: engaged, with memory and step time in the record."""
    record = executed(
        folder,
        device,
        *options_of(method, "tiny_bert"),
        *shape,
        "train.precision=bf16",
        "protocol=timing",
        "protocol.warmup_steps=2",
        f"protocol.max_steps={steps}",
        "train.batch_size=16",
    )
    training = record.training
    assert training.steps == steps + 2 and record.checks.loss_finite
    assert training.seconds_per_step_median > 0
    assert training.peak_memory_bytes > 4 * record.model.parameters  # the weights alone, in fp32
    return record


def executed(folder: Path, device: str, *options: str) -> Record:
    """Run from configuration to record, all of whose checks hold."""
    run = compose_tiny(folder, f"train.device={device}", *options)
    record = execute(run, Store(run.results_dir, run.outputs_dir))
    assert record.status == "done" and record.checks.failures() == []
    return record
