"""The comparisons of test_gpu.py with the CPU on both sides: what they ask of a method can be met."""

from __future__ import annotations

import pytest
from device_cases import assert_bf16_holds_on, assert_equal_on, assert_measured_on
from tiny_runs import compose_tiny, prepare

METHODS = ["full", "low_k", "lora", "adapters", "prefix", "ia3", "lift", "slimfit", "recap", "lisa"]


def agrees_with_itself(base, method, model):
    def prepared(device, *overrides, folder):
        return prepare(compose_tiny(base / folder, f"train.device={device}", *overrides))

    assert_equal_on("cpu", prepared, method, model)


@pytest.mark.parametrize("method", METHODS)
def test_a_device_held_against_itself_agrees(tmp_path, method):
    agrees_with_itself(tmp_path, method, "tiny_bert")


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_decoder_held_against_itself_agrees_and_trains_in_bf16(tmp_path, method):
    agrees_with_itself(tmp_path, method, "tiny_gpt2")
    assert_bf16_holds_on("cpu", tmp_path, method, "tiny_gpt2")


@pytest.mark.parametrize("method", ["lift", "recap"])
def test_memory_and_step_time_are_measured_with_a_warm_up(tmp_path, method):
    assert_measured_on("cpu", tmp_path, method, steps=8)
