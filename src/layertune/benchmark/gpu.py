"""What only a CUDA device can show: step time and kernels per mode and shape, and many runs on one card."""

from __future__ import annotations

import logging
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from statistics import median
from typing import Any

import numpy as np
import torch

from layertune.benchmark.arms import Bench, Setting, loop_arms, timing
from layertune.benchmark.jobs import Plan
from layertune.benchmark.lengths import split_of, task_lengths

log = logging.getLogger(__name__)

WIDTHS = (16, 32, 64, 128)  # padded tokens of a batch
AT_ONCE = (1, 2, 4, 8, 16)  # runs on one card
TOGETHER = 2000  # steps that each of them takes
READY_SECONDS = 300.0  # in which all of them have loaded; one that failed would be waited for
TINYLLAMA = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "intermediate_size": 5632,
}
GEMMA2_2B = {
    "model_type": "gemma2",
    "vocab_size": 256000,
    "hidden_size": 2304,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "intermediate_size": 9216,
}
LARGE = {"tinyllama": TINYLLAMA, "gemma2_2b": GEMMA2_2B}
_all_ready: Barrier | None = None  # of a process among several


def measure_gpu(plan: Plan) -> dict[str, Any]:
    """Measure steps in both precisions, and runs at once."""
    steps: list[dict[str, Any]] = []
    for precision in ("fp32", "bf16"):
        setting = replace(plan.setting("gpu", plan.base, "sst2"), precision=precision)
        steps += _steps(setting)
    return {
        "steps": steps,
        "at_once": [_at_once(plan, count) for count in AT_ONCE],
        "peak_memory": _large_models(plan),
    }


def _steps(setting: Setting, batches: int = 50) -> list[dict[str, Any]]:
    """Return milliseconds and launched kernels of a step, per arm and width."""
    bench = Bench.start(setting)
    found = []
    for arm in loop_arms():
        for width in WIDTHS:
            lengths = np.full(setting.batch_size * batches, width)
            seconds = [_one_run(bench, arm.overrides, lengths, batches) for _ in range(3)]
            found.append(
                {
                    "arm": arm.name,
                    "precision": setting.precision,
                    "width": width,
                    "milliseconds": 1000 * median(seconds),
                    "kernels": _kernels(bench, arm.overrides, lengths),
                }
            )
            log.info("%s", found[-1])
    return found


def _one_run(bench: Bench, overrides: tuple[str, ...], lengths: np.ndarray, steps: int) -> float:
    """Return the seconds of a step in the middle of a run: graphs and caches are there."""
    run = bench.setting.run(*overrides, *timing(10, steps))
    return bench.train(run, bench.data(split_of(lengths, None))).seconds / steps


def _kernels(bench: Bench, overrides: tuple[str, ...], lengths: np.ndarray) -> float:
    """Return launches per step: of kernels, or of graphs that hold them; more steps minus fewer."""
    counts = []
    for steps in (5, 15):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            _one_run(bench, overrides, lengths, steps)
        names = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cudaGraphLaunch")
        counts.append(sum(event.count for event in profile.key_averages() if event.key in names))
    return (counts[1] - counts[0]) / 10


def _share(barrier: Barrier) -> None:
    """Let a process of the pool know where the runs wait for each other."""
    global _all_ready
    _all_ready = barrier


def _worker(plan: Plan, steps: int) -> tuple[float, float]:
    """Return when one run among several began and ended; they begin together and share their cache."""
    setting = replace(plan.setting("at-once", plan.base, "sst2_glue"), precision="bf16")
    bench = Bench.start(setting)
    lengths = task_lengths("sst2_glue").lengths[: setting.batch_size * 500]
    arm = next(arm for arm in loop_arms() if arm.name == "h10")
    _one_run(bench, arm.overrides, lengths, min(50, steps))  # the cache is there, libraries are loaded
    assert _all_ready is not None
    _all_ready.wait(READY_SECONDS)
    start = time.time()
    _one_run(bench, arm.overrides, lengths, steps)
    return start, time.time()


def _at_once(plan: Plan, count: int, steps: int = TOGETHER) -> dict[str, Any]:
    """Return how many steps per second several runs take together on one card, from the first start to the
    last end: opening the cache and capturing are part of a run.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, context, initializer=_share, initargs=(barrier,)) as pool:
        times = list(pool.map(_worker, [plan] * count, [steps] * count))
    seconds = max(end for _, end in times) - min(start for start, _ in times)
    found = {"runs": count, "seconds": seconds, "steps_per_second": steps * count / seconds}
    log.info("%s", found)
    return found


def _large_models(plan: Plan) -> list[dict[str, Any]]:
    """Return the peak memory of a step of random models of the sizes of the paper's decoders."""
    found = []
    for name, shape in LARGE.items():
        layers = shape["num_hidden_layers"]
        text = ",".join(f"{key}:{value}" for key, value in shape.items())
        model = (
            f"model={name}",
            "model.source=random",
            "model.revision=null",
            f"model.random_config={{{text}}}",
        )
        setting = replace(plan.setting(name, model, "sst2"), precision="bf16")
        bench = Bench.start(setting)
        for arm in (("method=full", "train=published"), ("method=top_k", "train=fast")):
            data = bench.data(split_of(np.full(16, 128), None))
            outcome = bench.train(setting.run(*arm, *timing(1, 2)), data)
            found.append({"model": name, "layers": layers, "arm": arm, "bytes": outcome.peak_memory_bytes})
        del bench
        torch.cuda.empty_cache()
    return found
