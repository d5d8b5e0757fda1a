"""What one step holds and does: its peak memory, one arm per process, and its time by kind of operation."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from layertune.runtime import PeakMemory, prepare_runtime
from scripts.benchmark.arms import Arm, Bench, Setting

log = logging.getLogger(__name__)

ROWS, LENGTH = 32, 128  # of the step whose memory is measured
WIDTH = 54  # of the steps that are profiled: mean tokens of MRPC's examples
FEW, MORE = 2, 5  # steps of two profiled runs: their difference is that of steps alone
KINDS = {  # the first kind holds whose name is part of the operation's
    "attention": ("scaled_dot_product", "flash_attention"),
    "matrix products": ("::mm", "::addmm", "::bmm", "::baddbmm"),
    "random numbers": ("::random", "::bernoulli", "native_dropout"),
    "GELU": ("gelu",),
    "layer norms": ("layer_norm",),
    "optimiser": ("_fused_adam",),
}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt(3)
LARGEST = 32 << 20  # bytes up to which a block comes from the heap: where glibc's own threshold ends up
ALL = (1 << 31) - 1


def measure_memory(setting: Setting, arm: Arm) -> dict[str, Any]:
    """Take a step on 32 examples of 128 tokens after another, which makes the optimiser's state (on a CPU
    `Trainer`'s is narrow); call it in a process of its own. Pages of libraries that no process before it has
    touched count as the step's.

    Returns:
        Peak bytes of the process (of the device on CUDA), and those before there was a model.
    """
    given_back = setting.device == "cpu" and give_back()
    setting = replace(setting, batch_size=ROWS)
    runtime = prepare_runtime(setting.run("method=full"))
    before = PeakMemory(runtime.device).read()
    bench = Bench.start(setting)
    peak = PeakMemory(bench.runtime.device)
    arm.steps(bench, [np.full(ROWS, LENGTH)])
    return arm.facts | {"bytes": peak.read(), "before": before, "given_back": given_back}


def give_back(size: int = 1 << 20) -> bool:
    """Let glibc return freed blocks of this many bytes and more to the system at once; False = no glibc.

    By default it keeps tensors up to 32 MB in its heap, whose holes then count: one step was seen to peak
    a quarter higher or not, by chance. `MALLOC_MMAP_THRESHOLD_=1048576` in the shell does
    the same for a run; its steps then take about a tenth longer.
    """
    return _mallopt(M_MMAP_THRESHOLD, size)


def keep_freed() -> bool:
    """Let glibc keep what its heap has grown to, as it is in the middle of a training; False = no glibc.

    A step that needs more memory than those before it waits for the system: that was seen to make a
    measured step a third longer. Over whole epochs it matters little, in a few steps it does.
    """
    return _mallopt(M_MMAP_THRESHOLD, LARGEST) and _mallopt(M_TRIM_THRESHOLD, ALL)


def _mallopt(what: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).mallopt(what, value))
    except (AttributeError, OSError, TypeError):
        log.warning("no mallopt here: holes in the heap and its growth are measured too")
        return False


def measure_breakdown(setting: Setting, arm: Arm) -> dict[str, Any]:
    """Return the share of each kind of operation in the steps of an arm, all batches as wide as `WIDTH`."""
    bench = Bench.start(setting)
    batch = np.full(setting.batch_size, WIDTH)
    few, more = (seconds_by_operation(bench, arm, [batch] * steps) for steps in (FEW, MORE))
    spent = dict.fromkeys([*KINDS, "everything else"], 0.0)
    for name, seconds in more.items():
        spent[kind_of(name)] += seconds - few.get(name, 0.0)
    spent = {kind: max(0.0, seconds) for kind, seconds in spent.items()}  # a small one can drown in noise
    total = sum(spent.values())
    return arm.facts | {"width": WIDTH, "shares": {kind: seconds / total for kind, seconds in spent.items()}}


def kind_of(operation: str) -> str:
    """Return the kind of an operation by its name, such as `aten::addmm`."""
    kinds = (kind for kind, parts in KINDS.items() if any(part in operation for part in parts))
    return next(kinds, "everything else")


def seconds_by_operation(bench: Bench, arm: Arm, batches: list[np.ndarray]) -> dict[str, float]:
    """Return the seconds of each operation without those that it calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        arm.steps(bench, batches)
    return {event.key: event.self_cpu_time_total / 1e6 for event in profile.key_averages()}
