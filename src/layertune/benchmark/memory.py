"""Peak memory of a step, one arm per process: what the interpreter and its libraries hold is told apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from layertune.benchmark.arms import Bench, Setting
from layertune.benchmark.measure import Arm
from layertune.training.runtime import PeakMemory, prepare_runtime

ROWS, LENGTH = 32, 128


def measure_memory(setting: Setting, arm: Arm) -> dict[str, Any]:
    """Take two steps on 32 examples of 128 tokens; call it in a process of its own.

    Returns:
        Peak bytes of the process (of the device on CUDA), and those before there was a model.
    """
    runtime = prepare_runtime(setting.run("method=full"))
    before = PeakMemory(runtime.device).read()
    bench = Bench.start(setting)
    peak = PeakMemory(bench.runtime.device)
    lengths = np.full(ROWS * 4, LENGTH)
    arm.steps(bench, [lengths[:ROWS]])
    return {"arm": arm.name, "title": arm.title, "lowest": arm.lowest, "bytes": peak.read(), "before": before}
