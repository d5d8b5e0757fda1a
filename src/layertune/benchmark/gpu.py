"""What only a CUDA device can show: step time and kernels per mode and shape, and many runs on one card."""

from __future__ import annotations

import logging
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
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
TOGETHER = 500  # steps that each of them takes
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


def _worker(plan: Plan, number: int, start_at: float) -> float:
    """Return the seconds of the steps of one run among several, which share their cache."""
    setting = replace(plan.setting("at-once", plan.base, "sst2_glue"), precision="bf16")
    bench = Bench.start(setting)
    lengths = task_lengths("sst2_glue").lengths[: 16 * TOGETHER]
    arm = next(arm for arm in loop_arms() if arm.name == "h10")
    _one_run(bench, arm.overrides, lengths, 50)
    time.sleep(max(0.0, start_at - time.time()))
    return _one_run(bench, arm.overrides, lengths, TOGETHER) * TOGETHER


def _at_once(plan: Plan, count: int) -> dict[str, Any]:
    """Return how many steps per second several processes take together on one card."""
    context = multiprocessing.get_context("spawn")
    start_at = time.time() + 60 + 2 * count  # all have loaded and warmed up by then
    with ProcessPoolExecutor(count, context) as pool:
        seconds = list(pool.map(_worker, [plan] * count, range(count), [start_at] * count))
    found = {"runs": count, "steps_per_second": TOGETHER * count / max(seconds)}
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
