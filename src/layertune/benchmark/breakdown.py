"""Where the time of a step goes, by kind of operation, as torch's profiler tells it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from layertune.benchmark.arms import Bench, LoopArm, Setting

WIDTH = 54  # mean tokens of MRPC's examples
FEW, MORE = 2, 5  # steps of two profiled runs: their difference is that of steps alone
KINDS = {  # the first kind holds whose name is part of the operation's
    "attention": ("scaled_dot_product", "flash_attention"),
    "matrix products": ("::mm", "::addmm", "::bmm", "::baddbmm"),
    "random numbers": ("::random", "::bernoulli", "native_dropout"),
    "GELU": ("gelu",),
    "layer norms": ("layer_norm",),
    "optimiser": ("_fused_adam",),
}


def measure_breakdown(setting: Setting, arm: LoopArm) -> dict[str, Any]:
    """Return the share of each kind of operation in the steps of an arm, all batches as wide as `WIDTH`."""
    bench = Bench.start(setting)
    batch = np.full(setting.batch_size, WIDTH)
    few, more = (_seconds_by_operation(bench, arm, [batch] * steps) for steps in (FEW, MORE))
    spent = dict.fromkeys([*KINDS, "everything else"], 0.0)
    for name, seconds in more.items():
        spent[kind_of(name)] += seconds - few.get(name, 0.0)
    spent = {kind: max(0.0, seconds) for kind, seconds in spent.items()}  # a small one can drown in noise
    total = sum(spent.values())
    return {
        "arm": arm.name,
        "title": arm.title,
        "width": WIDTH,
        "shares": {kind: seconds / total for kind, seconds in spent.items()},
    }


def kind_of(operation: str) -> str:
    """Return the kind of an operation by its name, such as `aten::addmm`."""
    kinds = (kind for kind, parts in KINDS.items() if any(part in operation for part in parts))
    return next(kinds, "everything else")


def _seconds_by_operation(bench: Bench, arm: LoopArm, batches: list[np.ndarray]) -> dict[str, float]:
    """Return the seconds of each operation without those that it calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        arm.steps(bench, batches)
    return {event.key: event.self_cpu_time_total / 1e6 for event in profile.key_averages()}
