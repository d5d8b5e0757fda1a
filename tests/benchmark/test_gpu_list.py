"""The measurements of `make bench-gpu`, as far as a CPU can run them: tiny models, one width."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layertune.benchmark import gpu
from layertune.benchmark.arms import bert_base, loop_arms
from layertune.benchmark.jobs import Plan

TINY = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2, "vocab_size": 20000}
TINY_LLAMA = {"num_key_value_heads": 2, "num_hidden_layers": 22} | TINY


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(tmp_path, device="cpu")


def test_steps_are_measured_per_arm_and_width(plan, monkeypatch):
    monkeypatch.setattr(gpu, "WIDTHS", (16,))
    monkeypatch.setattr(gpu, "loop_arms", lambda: [arm for arm in loop_arms() if arm.name in ("g10", "h10")])
    monkeypatch.setattr(gpu, "_kernels", lambda *_: 7.0)
    found = gpu._steps(plan.setting("gpu", bert_base(**TINY), "sst2"), batches=2)
    assert [(line["arm"], line["width"], line["kernels"]) for line in found] == [
        ("g10", 16, 7.0),
        ("h10", 16, 7.0),
    ]
    assert all(line["milliseconds"] > 0 for line in found)


def test_launches_per_step_are_those_of_ten_more_steps(plan, monkeypatch):
    taken = []
    monkeypatch.setattr(gpu, "_one_run", lambda bench, overrides, lengths, steps: taken.append(steps))
    assert gpu._kernels(None, (), None) == 0.0  # a CPU launches none
    assert taken == [5, 15]


def test_runs_at_once_begin_together_and_count_from_the_first_start_to_the_last_end(tmp_path):
    found = gpu._at_once(Plan(tmp_path, device="cpu", hidden_size=24), 2, steps=4)
    assert found["runs"] == 2 and 0 < found["seconds"] < 120
    assert found["steps_per_second"] == 2 * 4 / found["seconds"]


def test_peak_memory_of_decoders_is_measured_in_both_modes(plan, monkeypatch):
    monkeypatch.setattr(gpu, "LARGE", {"tinyllama": gpu.TINYLLAMA | TINY_LLAMA})
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    found = gpu._large_models(plan)
    assert [line["arm"][0] for line in found] == ["method=full", "method=top_k"]
    assert all(line["bytes"] > 0 for line in found)
