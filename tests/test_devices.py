"""The comparisons of test_gpu.py with the CPU on both sides: they accept a right device and no wrong one."""

from __future__ import annotations

import dataclasses

import device_cases
import pytest
import torch
from device_cases import assert_bf16_holds_on, assert_equal_on, assert_measured_on, executed
from tiny_runs import compose_tiny, prepare, whole_but

METHODS = ["full", "low_k", "lora", "adapters", "prefix", "ia3", "lift", "slimfit", "recap", "lisa"]


def by_turns(first: int) -> list:
    """Return all methods; those of the other turn, which another model has, are `whole`."""
    return whole_but((place % 2 == first, name) for place, name in enumerate(METHODS))


def held_against_itself(base, method, model, *wrong, fault=lambda case: None):
    """Compare the CPU with itself; `wrong` options and the fault are those of the device under test."""

    def prepared(device, *overrides, folder):
        ours = folder.startswith("ours")
        name = f"{folder}-{'right' if not wrong else 'wrong'}"
        case = prepare(
            compose_tiny(base / name, f"train.device={device}", *overrides, *(wrong if ours else ()))
        )
        if ours:
            fault(case)
        return case

    assert_equal_on("cpu", prepared, method, model)


def other_loss(case):
    case.model.label_smoothing = 0.05


def other_gradient(case):
    case.model.head.out.bias.register_hook(lambda gradient: 1.01 * gradient)


def other_updates(case):
    torch.nn.init.zeros_(case.model.head.out.weight)  # after the scores, which read no head


@pytest.mark.parametrize("method", by_turns(0))
def test_a_right_device_agrees_and_one_of_another_loss_does_not(tmp_path, method):
    held_against_itself(tmp_path, method, "tiny_bert")
    with pytest.raises(AssertionError):
        held_against_itself(tmp_path, method, "tiny_bert", fault=other_loss)


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (["scoring.examples=48"], None),
        (["method.k=3"], None),
        (["seed=1"], None),
        ([], other_gradient),
        ([], other_updates),
        (["train.learning_rate=1e-2"], None),  # seen in losses and answers alone
    ],
    ids=["scores", "layers", "head", "gradient", "weights", "steps"],
)
def test_a_device_that_computes_something_else_is_noticed(tmp_path, wrong, fault):
    with pytest.raises(AssertionError):
        held_against_itself(tmp_path, "low_k", "tiny_bert", *wrong, fault=fault or (lambda case: None))


@pytest.mark.slow
@pytest.mark.parametrize("method", by_turns(1))
def test_a_right_decoder_agrees_and_trains_in_bf16_and_one_of_another_loss_does_not(tmp_path, method):
    held_against_itself(tmp_path, method, "tiny_gpt2")
    assert_bf16_holds_on("cpu", tmp_path, method, "tiny_gpt2")
    with pytest.raises(AssertionError):
        held_against_itself(tmp_path, method, "tiny_gpt2", fault=other_loss)


def test_a_device_whose_16_bits_are_32_is_noticed(tmp_path, monkeypatch):
    def in_32_bits(folder, device, *options):
        record = executed(folder, device, *(one for one in options if "train.precision" not in one))
        precision = next(one for one in options if "train.precision" in one).partition("=")[2]
        return dataclasses.replace(record, env=dataclasses.replace(record.env, precision=precision))

    monkeypatch.setattr(device_cases, "executed", in_32_bits)
    with pytest.raises(AssertionError):
        assert_bf16_holds_on("cpu", tmp_path, "low_k", "tiny_bert")


@pytest.mark.parametrize("method", ["lift", "recap"])
def test_memory_and_step_time_are_measured_with_a_warm_up(tmp_path, method):
    assert_measured_on("cpu", tmp_path, method, steps=8)
