"""Peak memory of a step, one arm per process: what the interpreter and its libraries hold is told apart."""

from __future__ import annotations

import ctypes
import logging
from dataclasses import replace
from typing import Any

import numpy as np

from layertune.benchmark.arms import Bench, Setting
from layertune.benchmark.measure import Arm
from layertune.training.runtime import PeakMemory, prepare_runtime

log = logging.getLogger(__name__)

ROWS, LENGTH = 32, 128
M_MMAP_THRESHOLD = -3  # of glibc's mallopt(3)


def give_back(size: int = 1 << 20) -> bool:
    """Let glibc return freed blocks of this many bytes and more to the system at once; False = no glibc.

    By default it keeps tensors up to 32 MB in its heap, whose holes then count: one step was seen to peak
    a quarter higher or not, by chance. `MALLOC_MMAP_THRESHOLD_=1048576` in the shell does
    the same for a run; its steps then take about a tenth longer.
    """
    try:
        return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, size))
    except (AttributeError, OSError, TypeError):
        log.warning("peak memory: no mallopt here; holes in the heap are counted as memory of the step")
        return False


def measure_memory(setting: Setting, arm: Arm) -> dict[str, Any]:
    """Take two steps on 32 examples of 128 tokens; call it in a process of its own.

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
