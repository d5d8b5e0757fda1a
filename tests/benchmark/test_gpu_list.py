"""The measurements of `make bench-gpu`, as far as a CPU can run them: tiny models, one width."""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from processes import FORK
from tiny_bench import TINY

from scripts.benchmark import gpu
from scripts.benchmark.arms import ARMS
from scripts.benchmark.jobs import BenchmarkPlan, machine
from scripts.benchmark.page import page_of

SMALL = {
    "tinyllama": gpu.LARGE["tinyllama"] | {"num_key_value_heads": 2, "num_hidden_layers": 22} | TINY,
    "gemma2_2b": gpu.LARGE["gemma2_2b"] | {"num_key_value_heads": 1, "head_dim": 12} | TINY,
}


STEPS = [
    {"arm": arm, "title": f"title of {arm}", "precision": precision, "width": width, "milliseconds": ms}
    for arm, precision, width, ms in (
        ("fast_top3", "bf16", 16, 1.25),
        ("fast_top3", "bf16", 32, 1.5),
        ("fast_middle3", "bf16", 32, 2.5),
        ("fast_top3", "fp32", 32, 4.0),
    )
]
LAUNCHES = [{"arm": "fast_top3", "precision": "bf16", "launches": 3.0, "kernels": 1234.0}]
AT_ONCE = [
    {"runs": 1, "steps": 2000, "seconds": 4.0, "steps_per_second": 500.0},
    {"runs": 16, "steps": 2000, "seconds": 12.8, "steps_per_second": 2500.0},
]
MEMORY = [
    {"model": "tinyllama", "layers": 22, "arm": ["method=full", "train=published"], "bytes": 20e9},
    {"model": "tinyllama", "layers": 22, "arm": ["method=top_k", "train=fast"], "bytes": 5e9},
]


@pytest.fixture
def plan(tmp_path: Path) -> BenchmarkPlan:
    return BenchmarkPlan(tmp_path, hidden_size=24)


@pytest.fixture
def small(plan, monkeypatch):
    """One width, two arms."""
    monkeypatch.setattr(gpu, "WIDTHS", (16,))
    monkeypatch.setattr(gpu, "STEPPED", [ARMS["fast_top3"], ARMS["published_top3"]])
    return plan


def test_steps_are_measured_per_precision_arm_and_width(small):
    found = list(gpu.steps(small, count=2))
    assert [(line["precision"], line["arm"], line["width"]) for line in found] == [
        ("bf16", "fast_top3", 16),
        ("bf16", "published_top3", 16),
        ("fp32", "fast_top3", 16),
        ("fp32", "published_top3", 16),
    ]
    assert all(line["milliseconds"] > 0 for line in found)


def test_launches_are_counted_per_precision_and_arm(small, monkeypatch):
    counted = {"kernels": 70.0, "launches": 7.0}
    monkeypatch.setattr(gpu, "counted", lambda bench, overrides, lengths: counted)
    assert list(gpu.launches(small)) == [
        {"arm": arm, "precision": precision} | counted
        for precision in ("bf16", "fp32")
        for arm in ("fast_top3", "published_top3")
    ]


def event(key: str, count: int, on_device: bool = False) -> SimpleNamespace:
    kinds = torch.autograd.DeviceType
    return SimpleNamespace(key=key, count=count, device_type=kinds.CUDA if on_device else kinds.CPU)


def test_kernels_of_the_device_and_launching_calls_are_counted():
    profile = [
        event("cudaLaunchKernel", 4),
        event("cuLaunchKernelEx", 3),
        event("cudaGraphLaunch", 1),
        event("cudaMemcpyAsync", 9),
        event("aten::addmm", 9),
        event("nvjet_hsh_64x8", 40, on_device=True),
        event("elementwise_kernel", 30, on_device=True),
        event("Memcpy HtoD (Pinned -> Device)", 9, on_device=True),
        event("Memset (Device)", 9, on_device=True),
    ]
    assert gpu.launches_in(iter(profile)) == {"kernels": 70, "launches": 8}


def test_launches_per_step_are_those_of_ten_more_steps(bench, monkeypatch):
    taken = []
    monkeypatch.setattr(gpu, "one_run", lambda bench, overrides, lengths, steps: taken.append(steps))

    def counted(_):  # 1,000 that come once, with the first run: the making of the cache
        once = 1000 if len(taken) == 1 else 30
        return {"kernels": once + 7 * taken[-1], "launches": once + taken[-1]}

    monkeypatch.setattr(gpu, "launches_in", counted)
    assert gpu.counted(bench, (), None) == {"kernels": 7.0, "launches": 1.0}
    assert taken == [1, 5, 15]


@pytest.fixture
def forks(monkeypatch):
    """Processes need not import torch again."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: FORK)


@pytest.mark.usefixtures("forks")
def test_runs_at_once_begin_together(plan, monkeypatch):
    times = []
    real = gpu.rate_of
    monkeypatch.setattr(gpu, "rate_of", lambda found, steps: times.extend(found) or real(found, steps))
    found = gpu.at_once(plan, 2, steps=40)
    assert (found["runs"], found["steps"]) == (2, 40)
    assert max(start for start, _ in times) < min(end for _, end in times)


def test_the_rate_counts_from_the_first_start_to_the_last_end():
    assert gpu.rate_of([(0.0, 5.0), (1.0, 8.0)], 100) == {"seconds": 8.0, "steps_per_second": 25.0}


@pytest.mark.usefixtures("forks")
def test_one_run_that_fails_is_said_and_the_others_do_not_wait(plan):
    with pytest.raises(Exception, match="hidden"):
        gpu.at_once(replace(plan, hidden_size=25), 2, steps=4)


@pytest.mark.parametrize("name", list(gpu.LARGE))
def test_peak_memory_of_decoders_is_measured_in_both_modes(name, plan, monkeypatch):
    monkeypatch.setattr(gpu, "LARGE", {name: SMALL[name]})
    found = list(gpu.large_models(plan))
    assert [(line["model"], line["arm"][0]) for line in found] == [
        (name, "method=full"),
        (name, "method=top_k"),
    ]
    assert all(line["bytes"] > 0 for line in found)


def broken(_):
    yield MEMORY[0]
    raise RuntimeError("out of memory")


@pytest.fixture
def measured(plan, monkeypatch, tmp_path):
    """Give what a device would have measured; return a call that gives back what was written each time."""
    monkeypatch.setitem(gpu.PARTS, "steps", lambda plan: iter(STEPS))
    monkeypatch.setitem(gpu.PARTS, "launches", lambda plan: iter(LAUNCHES))
    monkeypatch.setattr(gpu, "at_once", lambda plan, count: AT_ONCE[0] | {"runs": count})
    monkeypatch.setitem(gpu.PARTS, "peak_memory", lambda plan: iter(MEMORY))
    path, written, real = tmp_path / "cuda-steps.json", [], gpu.save_result

    def save(path, content):
        real(path, content)
        written.append(json.loads(path.read_text()))
        assert path.with_suffix(".md").read_text() == page_of(content)

    monkeypatch.setattr(gpu, "save_result", save)

    def measure(part):
        written.clear()
        failed = gpu.measure_gpu(plan, part, path)
        return [*written], failed

    return measure


def test_each_measurement_is_written_as_it_is_there(measured):
    written, failed = measured("steps")
    assert [len(content["steps"]) for content in written] == [1, 2, 3, 4]
    assert written[-1]["steps"] == STEPS and failed == written[-1]["failed"] == []


def test_parts_that_are_not_asked_for_stay(measured):
    measured("steps")
    measured("launches")
    measured("at_once")
    (first, last), _ = measured("peak_memory")
    assert [line["runs"] for line in first["at_once"]] == list(gpu.AT_ONCE) and first["steps"] == STEPS
    assert last["peak_memory"] == MEMORY and set(last["measured_at"]) == set(gpu.PARTS)


@pytest.mark.parametrize("change", [{"device": "another card"}, {"torch": "1.0"}, {"batch_size": 4}])
def test_numbers_of_another_machine_are_not_joined(measured, change, tmp_path):
    path = tmp_path / "cuda-steps.json"
    (*_, known), _ = measured("steps")
    path.write_text(json.dumps(known | {"machine": known["machine"] | change}))
    before = path.read_text()
    with pytest.raises(gpu.OtherMachineError, match=r"cuda-steps\.json"):
        measured("at_once")
    assert path.read_text() == before


def test_a_part_that_fails_leaves_what_it_has_and_is_named(measured, monkeypatch):
    measured("steps")
    monkeypatch.setitem(gpu.PARTS, "peak_memory", broken)
    (*_, last), failed = measured("peak_memory")
    assert last["peak_memory"] == MEMORY[:1] and last["steps"] == STEPS
    assert failed == last["failed"] == ["peak_memory: RuntimeError: out of memory"]
    assert "- peak_memory: RuntimeError: out of memory" in page_of(last)
    (*_, last), failed = measured("launches")
    assert failed == [] and last["failed"] == ["peak_memory: RuntimeError: out of memory"]  # still so
    monkeypatch.setitem(gpu.PARTS, "peak_memory", lambda plan: iter(MEMORY))
    assert measured("peak_memory")[0][-1]["failed"] == []


def test_where_sixteen_runs_do_not_fit_fewer_are_measured(measured, monkeypatch):
    def at_once(plan, count):
        if count == 16:
            raise RuntimeError("out of memory")
        return {"runs": count, "steps": 9, "seconds": 1.0, "steps_per_second": 9.0}

    monkeypatch.setattr(gpu, "at_once", at_once)
    (*_, last), failed = measured("at_once")
    assert [line["runs"] for line in last["at_once"]] == [1, 8, 4, 2]
    assert failed == ["at_once: 16 runs: RuntimeError: out of memory"]


def test_its_tables_show_steps_launches_runs_and_memory(plan):
    content = {"machine": machine(plan.setting("gpu")), "failed": []}
    content["measured_at"] = {"steps": "2026-11-27"}
    content |= {"steps": STEPS, "launches": LAUNCHES, "at_once": AT_ONCE[::-1], "peak_memory": MEMORY}
    text = page_of(content)
    assert "| `fast_top3` | title of fast_top3 | 1.25 | 1.50 | 3 | 1,234 |" in text
    assert "| `fast_middle3` | title of fast_middle3 | — | 2.50 | — | — |" in text
    assert (
        "| `fast_top3` | title of fast_top3 | 4.00 | — | — |" in text
        and "Measured: steps 2026-11-27." in text
    )
    assert text.index("| 1 | 4.0 | 500 | 1.00 |") < text.index("| 16 | 12.8 | 2,500 | 5.00 |")
    assert "Each takes 2,000 steps" in text
    assert "| tinyllama | 22 | `method=top_k`, `train=fast` | 5.00 | 0.25 |" in text
    empty = {part: [] for part in gpu.PARTS}
    assert "##" not in page_of(content | empty)
    assert "| 16 | 12.8 | 2,500 | — |" in page_of(content | empty | {"at_once": AT_ONCE[1:]})
