"""Rounds of all arms in turn, A B B A, and what follows from them: ratios with their spread.

What a step costs depends on its arm and its padded width, not on the task. A round therefore measures each
arm on one set of batches of widths that cover all tasks, and projects every task from it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from layertune.benchmark.arms import (
    Bench,
    LoopArm,
    Setting,
    cache_curve,
    selection_curve,
    selection_seconds,
)
from layertune.benchmark.lengths import TaskLengths, across, widths_of
from layertune.benchmark.project import WALL, Cost, Curve, Epoch, Round, median_cost, projected, ratio
from layertune.benchmark.trainer_arms import TrainerArm
from layertune.tasks import sorted_batches
from layertune.training.runtime import device_facts

log = logging.getLogger(__name__)

Arm = LoopArm | TrainerArm
Order = Callable[[np.ndarray, int, int], list[np.ndarray]]
OTHERS = ("c", "d")  # with which arms are compared beside the first: padded to the maximum, LoRA
PASS_ROWS, PASSES = 64, 2  # rows of a batch of the passes that score and cache; batches that are measured


def passes_over(lengths: np.ndarray) -> list[np.ndarray]:
    """Return the batches of a pass over all examples, sorted by length."""
    return [lengths[rows] for rows in sorted_batches(lengths, PASS_ROWS)]


class Batches:
    """The batches that arms are measured on, by the order of their epochs."""

    def __init__(self, tasks: Sequence[TaskLengths], batch_size: int, count: int) -> None:
        self.tasks, self.batch_size, self.count = tasks, batch_size, count
        self.passes = across([passes_over(task.lengths) for task in tasks], min(PASSES, count))
        self._known: dict[Order, list[np.ndarray]] = {}

    def of(self, arm: Arm) -> list[np.ndarray]:
        """Return `count` batches of the arm's order, narrow ones first: their widths cover all tasks."""
        if arm.order not in self._known:
            pools = [arm.order(task.lengths, self.batch_size, 0) for task in self.tasks]
            self._known[arm.order] = across(pools, self.count)
        return self._known[arm.order]


def measure_round(
    bench: Bench, tasks: Sequence[TaskLengths], arms: Sequence[Arm], count: int
) -> dict[str, Round]:
    """Measure all arms once, each on `count` batches: every other one on the way from the first arm to the
    last, the rest on the way back, so that a machine that grows slower or faster does so for all. One that
    pads to the maximum, whose steps are long and all alike, comes in between.

    Layers are chosen first, by the weights as they are: how many examples decide depends on them, and arms
    train.

    Args:
        bench: the model.
        tasks: whose widths are covered.
        arms: the first warms the process up.
        count: optimiser steps per arm.
    """
    batches = Batches(tasks, bench.setting.batch_size, count)
    scored = [arm for arm in arms if isinstance(arm, LoopArm) and arm.scored]
    reads_few = {arm.name for arm in scored if arm.fast}
    reads_all = {arm.name for arm in scored if not arm.fast}
    on_cuda = bench.runtime.device.type == "cuda"  # where each new width loads kernels
    selection_curve(bench, batches.passes if on_cuda else batches.passes[:1])  # what comes first is slow
    all_read = selection_curve(bench, batches.passes) if reads_all else None
    few = {task.task: selection_seconds(bench, task.lengths) for task in tasks if reads_few}
    arms[0].steps(bench, batches.of(arms[0])[-1:])  # slow again: the first backward pass, of the widest batch
    steps: dict[str, Curve] = {}
    cached: dict[str, int | None] = {}
    for arm in sorted(arms, key=lambda arm: arm.pad_to is not None):
        half = batches.of(arm) if arm.pad_to else batches.of(arm)[::2]
        steps[arm.name], cached[arm.name] = arm.steps(bench, half)
    for arm in reversed(arms):
        if not arm.pad_to and count > 1:
            steps[arm.name] += arm.steps(bench, batches.of(arm)[1::2])[0]
        log.info("%s: %s s", arm.name, " ".join(f"{s:.2f}" for s in steps[arm.name].seconds))
    below = {layer for layer in cached.values() if layer is not None}
    for layer in below if on_cuda else ():
        cache_curve(bench, layer, batches.passes)
    caches = {layer: cache_curve(bench, layer, batches.passes) for layer in sorted(below)}
    return {
        arm.name: Round(
            steps[arm.name],
            select=all_read if arm.name in reads_all else None,
            select_few={task: cost for task, (cost, _) in few.items()} if arm.name in reads_few else None,
            examples={task: read for task, (_, read) in few.items()} if arm.name in reads_few else None,
            cache=None if cached[arm.name] is None else caches[cached[arm.name]],
        )
        for arm in arms
    }


def arms_of_round(arms: Sequence[Arm], number: int) -> list[Arm]:
    """Return the arms of a round, counted from 0: one that pads to the maximum is measured in the first."""
    return [arm for arm in arms if number == 0 or not arm.pad_to]


def combine(
    rounds: Sequence[dict[str, Round]], tasks: Sequence[TaskLengths], arms: Sequence[Arm], setting: Setting
) -> list[dict[str, Any]]:
    """Project rounds on tasks.

    Args:
        rounds: arm -> what was measured.
        tasks: whose trainings are projected.
        arms: the first is what the others are compared with.
        setting: of the rounds.

    Returns:
        Plain values for the result file, per task and arm: the seconds of a whole training, the ratio of the
        first arm to it and the spread of that ratio over the rounds (None where there is one).
    """
    found = []
    for task in tasks:
        epochs = {arm.name: epoch_of(arm, task, setting.batch_size) for arm in arms}
        costs = {
            name: [projected(one[name], epoch, setting.epochs) for one in rounds if name in one]
            for name, epoch in epochs.items()
        }
        lines = [line_of(arm, costs, arms[0].name, projection=True) for arm in arms if costs[arm.name]]
        shape = {"task": task.task, "examples": task.examples, "mean_tokens": round(task.mean, 2)}
        found.append(shape | {"arms": lines})
    return found


def epoch_of(arm: Arm, task: TaskLengths, batch_size: int) -> Epoch:
    """Return what a task asks of an arm."""
    steps = widths_of(arm.order(task.lengths, batch_size, 0))
    if arm.pad_to:
        steps = np.full(len(steps), arm.pad_to)
    return Epoch(task.task, steps, widths_of(passes_over(task.lengths)), task.examples / len(task.lengths))


def line_of(arm: Arm, costs: dict[str, list[Cost]], base: str, projection: bool) -> dict[str, Any]:
    """Return an arm's line of the result file.

    Args:
        arm: whose.
        costs: arm -> its cost in each round, or once where its training was measured to the end.
        base: with which it is compared.
        projection: whether its cost is a projection.
    """
    own = costs[arm.name]

    def compared(name: str) -> tuple[float, float | None]:
        rounds = max(len(own), len(costs[name]))
        theirs, ours = ([cost.total for cost in c] * (rounds // len(c)) for c in (costs[name], own))
        middle, spread = ratio(theirs, ours)
        return middle, spread if rounds > 1 else None

    middle, spread = compared(base)
    return {
        "arm": arm.name,
        "title": arm.title,
        "lowest": arm.lowest,
        "projected": projection,
        "seconds": asdict(median_cost(own)) | {"total": median_cost(own).total},
        "ratio": middle,
        "spread": spread,
        "ratio_to": {name: compared(name) for name in OTHERS if costs.get(name)},
    }


def machine(setting: Setting) -> dict[str, Any]:
    """Say where and how it was measured."""
    cuda = setting.device == "cuda"
    return {
        "device": device_facts(torch.device(setting.device))[0],
        "cores": os.cpu_count(),
        "threads": setting.threads,
        "clock": WALL if cuda else "CPU time of one process",
        "load": list(os.getloadavg()),
        "torch": torch.__version__,
        "precision": setting.precision,
        "batch_size": setting.batch_size,
        "epochs": setting.epochs,
        "optimizer": "AdamW, fused, on both sides; no clipping",
        "batching": "(a) (c) (d) (e) random order, (b) grouped by length, (f) (g) (h) length buckets",
        "measured_at": time.strftime("%Y-%m-%d"),
    }
