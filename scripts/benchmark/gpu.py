"""What only a CUDA device can show: the time of a step per mode and width, what it launches, many runs on one
card, and the memory of large models.
"""

from __future__ import annotations

import gc
import json
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from threading import BrokenBarrierError
from typing import Any

import numpy as np
import torch

from layertune.errors import ConfigError, in_words
from layertune.training.outcome import TrainOutcome
from scripts.benchmark.arms import ARMS, Bench, LoopArm, random_model, timing
from scripts.benchmark.jobs import FAST, BenchmarkPlan, machine
from scripts.benchmark.lengths import split_of, task_lengths
from scripts.benchmark.page import save_result

log = logging.getLogger(__name__)

PRECISIONS = ("bf16", "fp32")
CHANGING = ("load", "measured_at", "precision")  # what may differ from part to part
WARM_UP = 10  # steps
LAUNCHES = {  # calls that launch a kernel, or a graph that holds many
    "cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cudaLaunchCooperativeKernel",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cudaGraphLaunch",
}
STEPPED = sorted(
    (a for a in ARMS.values() if isinstance(a, LoopArm)), key=lambda a: a.name != FAST
)  # fastest first
WIDTHS = (16, 32, 64, 128)  # padded tokens of a batch
AT_ONCE = (1, 16, 8, 4, 2)  # runs on one card; the first two say most
TOGETHER = 5000  # steps that each of them takes
READY_SECONDS = 300.0  # in which all of them have loaded: the others do not wait longer for one that hangs
LARGE = {  # the shapes of the paper's decoders
    "tinyllama": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 2048,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "intermediate_size": 5632,
    },
    "gemma2_2b": {
        "model_type": "gemma2",
        "vocab_size": 256000,
        "hidden_size": 2304,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "intermediate_size": 9216,
    },
}
_all_ready: Barrier | None = None  # of a process among several


class OtherMachineError(ConfigError):
    """Numbers of one machine would stand beside those of another."""


def measure_gpu(plan: BenchmarkPlan, part: str, path: Path) -> list[str]:
    """Measure a part of the list and write it, line by line, to a result file whose other parts stay.

    Args:
        plan: whose model's shape and scratch folder.
        part: which of `PARTS`.
        path: of the file; it need not exist.

    Returns:
        What failed in it; the file names that too.

    Raises:
        OtherMachineError: the file was measured on another device, or in another way.
    """
    where = {key: value for key, value in machine(plan.setting("gpu")).items() if key not in CHANGING}
    content: dict[str, Any] = {"machine": where, "measured_at": {}, "failed": []} | {
        name: [] for name in PARTS
    }
    if path.is_file():
        content |= json.loads(path.read_text())
    if content["machine"] != where:
        kept = content["machine"]
        what = ", ".join(f"{key} {kept.get(key)}" for key in where if kept.get(key) != where[key])
        raise OtherMachineError(f"{path} was measured otherwise ({what}); name another folder with --out.")
    others = [failure for failure in content["failed"] if not failure.startswith(f"{part}:")]
    lines, failed = [], []

    def save() -> None:
        content["failed"] = others + failed
        content[part] = lines
        content["measured_at"][part] = time.strftime("%Y-%m-%d")
        save_result(path, content)

    try:
        for line in PARTS[part](plan):
            log.info("%s", line)
            if isinstance(line, str):
                failed.append(f"{part}: {line}")
            else:
                lines.append(line)
            save()
    except Exception as error:  # what was measured before is worth keeping
        failed.append(f"{part}: {in_words(error)}")
        save()
    finally:
        _let_go()
    return failed


def steps(plan: BenchmarkPlan, count: int = 100) -> Iterator[dict[str, Any]]:
    """Yield milliseconds of a step per precision, arm and width."""
    for precision in PRECISIONS:
        bench = Bench.start(replace(plan.setting("gpu"), precision=precision))
        for arm in STEPPED:
            for width in WIDTHS:
                lengths = np.full(bench.setting.batch_size * min(count, 50), width)
                seconds = one_run(bench, arm.overrides, lengths, count).step_seconds
                yield {
                    "arm": arm.name,
                    "title": arm.title,
                    "precision": precision,
                    "width": width,
                    "milliseconds": 1000 * median(seconds),
                }


def launches(plan: BenchmarkPlan) -> Iterator[dict[str, Any]]:
    """Yield what a step launches per precision and arm, at the narrowest width."""
    for precision in PRECISIONS:
        bench = Bench.start(replace(plan.setting("gpu"), precision=precision))
        for arm in STEPPED:
            lengths = np.full(bench.setting.batch_size * 15, WIDTHS[0])
            yield {"arm": arm.name, "precision": precision, **counted(bench, arm.overrides, lengths)}


def one_run(bench: Bench, overrides: tuple[str, ...], lengths: np.ndarray, steps: int) -> TrainOutcome:
    """Train so many steps after some in which graphs and caches are made."""
    run = bench.setting.run(*overrides, *timing(WARM_UP, steps))
    return bench.train(run, bench.data(split_of(lengths, None)))


def counted(bench: Bench, overrides: tuple[str, ...], lengths: np.ndarray) -> dict[str, float]:
    """Return per step: kernels that run, and launches, of kernels or of graphs that hold them. More steps
    minus fewer, so that what comes once is left out.
    """
    activities = torch.profiler.ProfilerActivity
    activity = activities.CUDA if bench.on_cuda else activities.CPU
    one_run(bench, overrides, lengths, 1)  # makes the cache, which comes once for all
    counts = []
    for number in (5, 15):
        with torch.profiler.profile(activities=[activity]) as profile:
            one_run(bench, overrides, lengths, number)
        counts.append(launches_in(profile.key_averages()))
    few, more = counts
    return {name: (more[name] - few[name]) / 10 for name in more}


def launches_in(events: Iterable[Any]) -> dict[str, int]:
    """Count kernels on the device, and calls that launch kernels or graphs, in a profile's averages."""
    events = list(events)
    on_device = (event for event in events if event.device_type == torch.autograd.DeviceType.CUDA)
    return {
        "kernels": sum(event.count for event in on_device if not event.key.startswith(("Memcpy", "Memset"))),
        "launches": sum(event.count for event in events if event.key in LAUNCHES),
    }


def _share(barrier: Barrier) -> None:
    """Let a process of the pool know where the runs wait for each other."""
    global _all_ready
    _all_ready = barrier


def _worker(plan: BenchmarkPlan, steps: int) -> tuple[float, float]:
    """Return when one run among several began and ended; they begin together and share a cache on disk."""
    assert _all_ready is not None
    try:
        bench = Bench.start(replace(plan.setting("at-once", task="sst2_glue"), precision="bf16"))
        lengths = task_lengths("sst2_glue").lengths[: bench.setting.batch_size * min(500, steps)]
        overrides = ARMS[FAST].overrides
        one_run(bench, overrides, lengths, min(50, steps))  # the cache is there, libraries are loaded
    except BaseException:
        _all_ready.abort()  # else the others would wait
        raise
    _all_ready.wait(READY_SECONDS)
    start = time.time()
    one_run(bench, overrides, lengths, steps)
    return start, time.time()


def runs_at_once(plan: BenchmarkPlan) -> Iterator[dict[str, Any] | str]:
    """Yield what each number of runs takes, or why it failed."""
    for count in AT_ONCE:
        try:
            yield at_once(plan, count)
        except Exception as error:  # sixteen may be too many for a card on which eight fit
            yield f"{count} runs: {in_words(error)}"


def at_once(plan: BenchmarkPlan, count: int, steps: int = TOGETHER) -> dict[str, Any]:
    """Return how many steps per second several runs take together on one card: composing the run, opening the
    cache and capturing are part of it.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(count)
    with ProcessPoolExecutor(count, context, initializer=_share, initargs=(barrier,)) as pool:
        runs = [pool.submit(_worker, plan, steps) for _ in range(count)]
    errors = [error for run in runs if (error := run.exception()) is not None]
    if errors:  # of those that waited for one that failed, none says why
        raise next((error for error in errors if not isinstance(error, BrokenBarrierError)), errors[0])
    return {"runs": count, "steps": steps} | rate_of([run.result() for run in runs], steps)


def rate_of(times: list[tuple[float, float]], steps: int) -> dict[str, float]:
    """Return the seconds from the first start to the last end of runs, and their steps per second."""
    seconds = max(end for _, end in times) - min(start for start, _ in times)
    return {"seconds": seconds, "steps_per_second": steps * len(times) / seconds}


def large_models(plan: BenchmarkPlan) -> Iterator[dict[str, Any]]:
    """Yield the peak memory of a step of random models of the sizes of the paper's decoders."""
    for name, shape in LARGE.items():
        setting = replace(plan.setting(name, random_model(name, shape)), precision="bf16")
        _let_go()
        before = torch.cuda.memory_allocated()
        bench = Bench.start(setting)
        for arm in (("method=full", "train=published"), ("method=top_k", "train=fast")):
            data = bench.data(split_of(np.full(16, 128), None))
            outcome = bench.train(setting.run(*arm, *timing(1, 2)), data)
            own = outcome.peak_memory_bytes - before
            yield {"model": name, "layers": shape["num_hidden_layers"], "arm": arm, "bytes": own}
            del outcome
            _let_go()
        del bench


def _let_go() -> None:
    """Free what nothing refers to any more."""
    gc.collect()
    torch.cuda.empty_cache()


PARTS: dict[str, Callable[[BenchmarkPlan], Iterator[dict[str, Any] | str]]] = {
    "steps": steps,
    "launches": launches,
    "at_once": runs_at_once,
    "peak_memory": large_models,
}
