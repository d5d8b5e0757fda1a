"""A whole training, measured to its end: on real data arms in turn by epoch, and a small model on more and
more examples and epochs.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict
from statistics import mean
from typing import Any

import numpy as np

from layertune.benchmark.arms import Bench, LoopArm, clock_of, selection_seconds, timing
from layertune.benchmark.lengths import split_of
from layertune.benchmark.measure import OTHERS, Arm
from layertune.benchmark.project import Cost, ratio
from layertune.benchmark.trainer_arms import TrainerArm
from layertune.models import load_tokenizer
from layertune.scoring.cached import cached_scores
from layertune.tasks import TaskData, TokenStore, load_task

log = logging.getLogger(__name__)

PADDED = 3  # steps of an arm that pads to the maximum


def measure_end_to_end(
    bench: Bench, arms: list[Arm], epochs: int, whole: tuple[str, ...], partly: int
) -> dict[str, Any]:
    """Train arms on the setting's real task, one epoch of each in turn.

    Each epoch starts with a new optimiser and goes on from the weights there are; its cost is that of any.

    Args:
        bench: the model.
        arms: the first is what the others are compared with.
        epochs: of a training.
        whole: names of the arms that train them all.
        partly: steps of the others, in their order of an epoch, which stand for all; an arm that pads to the
            maximum takes `PADDED`, all of its steps being alike.
    """
    setting = bench.setting
    run = setting.run("method=full")
    data = load_task(run, *load_tokenizer(run.model))
    shutil.rmtree(setting.outputs / "cache" / "prefix", ignore_errors=True)
    shutil.rmtree(setting.outputs / "cache" / "scores", ignore_errors=True)
    once = {arm.name: (_selection(bench, arm, data), 0.0) for arm in arms}
    seconds: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for epoch in range(1, epochs + 1):
        for arm in arms:
            if epoch > 1 and arm.name not in (arms[0].name, *whole):
                continue
            if isinstance(arm, LoopArm):
                spent, cache = _loop_epoch(bench, arm, data, epoch, None if arm.name in whole else partly)
                once[arm.name] = once[arm.name][0], cache if epoch == 1 else once[arm.name][1]
            else:
                steps = None if arm.name in whole else PADDED if arm.pad_to else partly
                spent = _trainer_epoch(bench, arm, data.train.store, epoch, steps)
            seconds[arm.name].append(spent)
            log.info("epoch %d: %s %.1f s", epoch, arm.name, spent)
    costs = {name: Cost(*once[name], sum(spent) * epochs / len(spent)) for name, spent in seconds.items()}
    base = arms[0].name
    lines = []
    for arm in arms:
        cost, share, own = costs[arm.name], sum(once[arm.name]) / epochs, seconds[arm.name]
        _, spread = ratio(seconds[base][: len(own)], [spent + share for spent in own])
        lines.append(
            {
                "arm": arm.name,
                "title": arm.title,
                "lowest": arm.lowest,
                "epochs": seconds[arm.name],
                "seconds": asdict(cost) | {"total": cost.total},
                "ratio": costs[base].total / cost.total,
                "spread": spread if len(own) > 1 else None,
                "ratio_to": {
                    name: (costs[name].total / cost.total, None) for name in OTHERS if name in costs
                },
            }
        )
    tokens = float(data.train.store.lengths.mean())
    return {"task": setting.task, "examples": len(data.train), "mean_tokens": round(tokens, 2), "arms": lines}


def measure_growth(
    bench: Bench, arm: LoopArm, lengths: np.ndarray, sizes: list[tuple[int, int]]
) -> list[dict[str, Any]]:
    """Train an arm on the first n examples for some epochs: selection, cache and every step.

    Args:
        bench: the model.
        arm: with layers to choose.
        lengths: of all examples.
        sizes: examples and epochs of each training.
    """
    now, found = clock_of(bench.runtime.device), []
    for examples, epochs in sizes:
        shutil.rmtree(bench.setting.outputs / "cache", ignore_errors=True)
        run = bench.setting.run(*arm.overrides, f"train.epochs={epochs}", "protocol.evaluate=false")
        data = bench.data(split_of(lengths[:examples], run.task.max_length))
        start = now()
        scores, _ = selection_seconds(bench, lengths[:examples])
        bench.train(run, data)
        found.append(
            {
                "arm": arm.name,
                "examples": examples,
                "epochs": epochs,
                "selection": scores,
                "seconds": float(now() - start),
            }
        )
    return found


def _selection(bench: Bench, arm: Arm, data: TaskData) -> float:
    """Return the cost of choosing the layers as the arm's mode does it; 0 for arms that choose none."""
    if isinstance(arm, TrainerArm) or not arm.scored:
        return 0.0
    mode = "train=fast" if arm.fast else "train=published"
    now = clock_of(bench.runtime.device)
    start = now()
    shutil.rmtree(bench.setting.outputs / "cache" / "scores", ignore_errors=True)
    cached_scores(bench.setting.run("method=low_k", mode), bench.model.eval(), data, bench.runtime.device)
    return float(now() - start)


def _loop_epoch(
    bench: Bench, arm: LoopArm, data: TaskData, epoch: int, steps: int | None
) -> tuple[float, float]:
    """Train an epoch, or so many of its steps; return the seconds of a whole one, and of the cache."""
    some = timing(1, steps) if steps else ()
    changes = ("train.epochs=1", "protocol.evaluate=false", f"seed={epoch}")
    outcome = bench.train(bench.setting.run(*arm.overrides, *some, *changes), data)
    whole = -(-len(data.train) // bench.setting.batch_size) / steps if steps else 1.0
    if bench.runtime.device.type == "cpu":
        return outcome.cpu_seconds * whole, outcome.cache.cpu_seconds
    return outcome.seconds * whole, outcome.cache.seconds


def _trainer_epoch(bench: Bench, arm: TrainerArm, store: TokenStore, epoch: int, steps: int | None) -> float:
    """Train an epoch with `Trainer`, or so many of its steps; return the seconds of a whole one."""
    order = _order(arm, store, bench.setting.batch_size, epoch)
    taken = order[: (steps + 1) * bench.setting.batch_size] if steps else order
    offsets = store.offsets
    examples = [
        {"input_ids": store.ids[offsets[i] : offsets[i + 1]].tolist(), "labels": int(store.labels[i])}
        for i in taken
    ]
    return mean(arm.train(bench, examples)) * -(-len(order) // bench.setting.batch_size)


def _order(arm: TrainerArm, store: TokenStore, batch_size: int, seed: int) -> np.ndarray:
    """Return the rows of an epoch in the arm's order: its order of lengths, rows of a length at random."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(store))
    by_length: dict[int, list[int]] = {}
    for row in rows:
        by_length.setdefault(int(store.lengths[row]), []).append(int(row))
    lengths = np.concatenate(arm.order(store.lengths, batch_size, seed))
    return np.array([by_length[int(length)].pop() for length in lengths])
