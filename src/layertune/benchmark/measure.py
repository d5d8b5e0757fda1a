"""Rounds of all arms in turn, A B A B, and what follows from them: ratios with their spread."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from layertune.benchmark.arms import Bench, LoopArm, Setting
from layertune.benchmark.lengths import TaskLengths, bucketed_batches, typical
from layertune.benchmark.project import Cost, Round, median_cost, projected, ratio
from layertune.benchmark.trainer_arms import TrainerArm
from layertune.training.runtime import device_facts

log = logging.getLogger(__name__)

Arm = LoopArm | TrainerArm
OTHERS = ("c", "d")  # with which arms are compared beside the first: padded to the maximum, LoRA


def batches_of(arm: Arm, lengths: np.ndarray, batch_size: int, count: int) -> list[np.ndarray]:
    """Return typical batches of an epoch as this arm orders it."""
    order = arm.order if isinstance(arm, TrainerArm) else bucketed_batches
    return typical(order(lengths, batch_size, 0), count)


def measure_task(
    bench: Bench, task: TaskLengths, arms: Sequence[Arm], rounds: int, steps: int
) -> dict[str, Any]:
    """Measure all arms on a task's lengths.

    Args:
        bench: the model.
        task: lengths and number of examples.
        arms: the first is what the others are compared with.
        rounds: each takes every arm once.
        steps: typical batches, the same in each round; a padded arm takes one, all of its steps being alike.

    Returns:
        Plain values for the result file: per arm the seconds of a step and of a whole training, the ratio of
        the first arm to it and the spread of that ratio over the rounds.
    """
    setting = bench.setting
    all_batches = {arm.name: batches_of(arm, task.lengths, setting.batch_size, steps) for arm in arms}
    found: dict[str, list[Round]] = {arm.name: [] for arm in arms}
    arms[0].round(bench, all_batches[arms[0].name][:1], task.lengths)  # a process's first steps are slow
    for number in range(rounds):
        for arm in arms:
            batches = all_batches[arm.name]
            if isinstance(arm, TrainerArm) and arm.pad_to:
                batches = batches[:1]
            found[arm.name].append(arm.round(bench, batches, task.lengths))
            log.info(
                "%s, round %d: %s %.3f s", task.task, number + 1, arm.name, found[arm.name][-1].step_seconds
            )
    costs = {
        arm.name: [projected(r, task.examples, setting.batch_size, setting.epochs) for r in found[arm.name]]
        for arm in arms
    }
    return {
        "task": task.task,
        "examples": task.examples,
        "mean_tokens": round(task.mean, 2),
        "arms": [_line(arm, found[arm.name], costs, costs[arms[0].name]) for arm in arms],
    }


def _line(arm: Arm, rounds: list[Round], costs: dict[str, list[Cost]], base: list[Cost]) -> dict[str, Any]:
    own = costs[arm.name]
    middle, spread = ratio([cost.total for cost in base], [cost.total for cost in own])
    line = {
        "arm": arm.name,
        "title": arm.title,
        "lowest": arm.lowest,
        "rounds": [asdict(r) for r in rounds],
        "seconds": asdict(median_cost(own)) | {"total": median_cost(own).total},
        "ratio": middle,
        "spread": spread,
        "ratio_to": {
            name: ratio([cost.total for cost in costs[name]], [cost.total for cost in own])
            for name in OTHERS
            if name in costs
        },
    }
    return line


def machine(setting: Setting) -> dict[str, Any]:
    """Say where and how it was measured."""
    cuda = setting.device == "cuda"
    return {
        "device": device_facts(torch.device(setting.device))[0],
        "cores": os.cpu_count(),
        "threads": setting.threads,
        "clock": "wall clock" if cuda else "CPU time of one process",
        "load": list(os.getloadavg()),
        "torch": torch.__version__,
        "precision": setting.precision,
        "batch_size": setting.batch_size,
        "epochs": setting.epochs,
        "optimizer": "AdamW, fused, on both sides; no clipping",
        "batching": "(a) (c) (d) (e) random order, (b) grouped by length, (f) (g) (h) length buckets",
        "measured_at": time.strftime("%Y-%m-%d"),
    }
