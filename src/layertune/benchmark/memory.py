"""Peak memory of a step, one arm per process: what the process held before is told apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from layertune.benchmark.arms import Bench, Setting
from layertune.benchmark.heap import give_back
from layertune.benchmark.measure import Arm
from layertune.training.runtime import PeakMemory, prepare_runtime

ROWS, LENGTH = 32, 128


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
    return {
        "arm": arm.name,
        "title": arm.title,
        "lowest": arm.lowest,
        "bytes": peak.read(),
        "before": before,
        "given_back": given_back,
    }
