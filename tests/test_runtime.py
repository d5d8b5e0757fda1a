"""Where a run computes, and meters that can be checked by hand."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from layertune import runtime
from layertune.errors import ConfigError
from layertune.runtime import Stopwatch, choose_device, prepare_runtime, seed_everything, set_determinism

CPU = torch.device("cpu")


def test_one_run_s_threads_are_not_the_next_one_s(tiny_run):
    before = prepare_runtime(tiny_run()).env.num_threads  # what a run that asks for nothing gets
    assert prepare_runtime(tiny_run(f"train.num_threads={before + 1}")).env.num_threads == before + 1
    assert torch.get_num_threads() == before + 1
    assert prepare_runtime(tiny_run()).env.num_threads == before
    assert torch.get_num_threads() == before


def test_determinism_is_asked_for_and_taken_back(tiny_run):
    try:
        env = prepare_runtime(tiny_run("train.deterministic=true")).env
        assert torch.are_deterministic_algorithms_enabled() and env.determinism == "deterministic"
        env = prepare_runtime(tiny_run()).env
        assert not torch.are_deterministic_algorithms_enabled() and env.determinism == "seeded"
    finally:
        set_determinism(False)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_is_the_one_asked_for(tiny_run, precision):
    made = prepare_runtime(tiny_run(f"train.precision={precision}"))
    assert made.precision == made.env.precision == precision
    with made.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def test_a_sweep_may_mix_precisions_in_one_process(tiny_run):
    for precision in ("bf16", "fp32", "bf16"):
        with prepare_runtime(tiny_run(f"train.precision={precision}")).autocast():
            assert torch.is_autocast_enabled("cpu") is (precision == "bf16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_is_a_wrong_request(tiny_run):
    with pytest.raises(ConfigError, match=r"train\.device=cuda, but torch finds no CUDA device"):
        prepare_runtime(tiny_run("train.device=cuda"))


def test_a_device_that_torch_names_otherwise_is_taken_as_it_is():
    assert choose_device("meta")[0] == torch.device("meta")


def test_several_processes_are_refused(tiny_run, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were started; a run takes one"):
        prepare_runtime(tiny_run())


def test_a_seed_fixes_python_numpy_and_torch():
    draws = []
    for _ in range(2):
        seed_everything(7)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    seed_everything(8)
    assert draws[0] == draws[1]
    assert draws[0] != (random.random(), float(np.random.rand()), float(torch.rand(())))


def test_the_stopwatch_adds_up_its_spans_and_counts_each_step(monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: 2 * now[0])
    monkeypatch.setattr(runtime, "time", clock)
    watch = Stopwatch(CPU)
    for start, ends in ((10.0, (11.0, 13.0)), (100.0, (104.0,))):
        now[0] = start
        watch.start()
        for end in ends:
            now[0] = end
            watch.step(examples=8, tokens=50)
        now[0] = ends[-1] + 0.5  # what follows the last step belongs to the span, not to a step
        watch.stop()
    assert (watch.steps, watch.cpu_steps) == ([1.0, 2.0, 4.0], [2.0, 4.0, 8.0])
    assert (watch.seconds, watch.cpu_seconds) == (8.0, 16.0)
    assert (watch.examples, watch.tokens) == (24, 150)
    again = Stopwatch(CPU)
    again.load(watch.state())
    assert (again.seconds, again.steps, again.examples) == (8.0, [1.0, 2.0, 4.0], 24)
    assert again.cpu_steps == [2.0, 4.0, 8.0]
    watch.reset()
    assert (watch.seconds, watch.steps, watch.examples, watch.tokens) == (0.0, [], 0, 0)
    assert watch.cpu_steps == []


def test_the_peak_of_memory_sees_what_was_freed_again():
    # In a process of its own: one that has run a whole suite may take the block from memory it holds.
    program = (
        "import numpy as np, torch\n"
        "from layertune.runtime import PeakMemory\n"
        "meter = PeakMemory(torch.device('cpu'))\n"
        "before = meter.read()\n"
        "block = np.ones(256 << 20, dtype=np.uint8)\n"
        "del block\n"
        "assert meter.read() - before > 128 << 20\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("started", "given", "warned"), [(True, None, True), (False, None, False), (True, ":16:8", False)]
)
def test_a_setting_that_comes_too_late_for_cublas_is_said(monkeypatch, caplog, started, given, warned):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given or "to be restored")
    if given is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: started)
    try:
        set_determinism(True)
    finally:
        set_determinism(False)
    assert ("cuBLAS may not see" in caplog.text) == warned
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (given or ":4096:8")
