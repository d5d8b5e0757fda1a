"""A whole training, measured to its end: on real data arms in turn by epoch, and a small model on more and
more examples and epochs.
"""

from __future__ import annotations

import logging
import shutil
from statistics import mean
from typing import Any

import numpy as np

from layertune.benchmark.arms import Bench, LoopArm, clock_of, selection_seconds
from layertune.benchmark.lengths import TaskLengths, split_of
from layertune.benchmark.measure import Arm, epoch_of, line_of, measure_round
from layertune.benchmark.project import Cost, projected, ratio
from layertune.benchmark.trainer_arms import TrainerArm
from layertune.models import load_tokenizer
from layertune.scoring.cached import cached_scores
from layertune.tasks import TaskData, TokenStore, load_task

log = logging.getLogger(__name__)


def measure_end_to_end(
    bench: Bench, arms: list[Arm], epochs: int, whole: tuple[str, ...], rounds: int, count: int
) -> dict[str, Any]:
    """Train arms on the setting's real task, one epoch of each in turn; project the others beside them.

    Each epoch starts with a new optimiser and goes on from the weights there are; its cost is that of any.

    Args:
        bench: the model.
        arms: the first is what the others are compared with.
        epochs: of a training.
        whole: names of the arms that train them all, the first among them.
        rounds: of the others, all in turn.
        count: steps of each of them and round, on batches whose widths cover the task's.
    """
    setting = bench.setting
    run = setting.run("method=full")
    data = load_task(run, *load_tokenizer(run.model))
    shutil.rmtree(setting.outputs / "cache" / "prefix", ignore_errors=True)
    trained = [arm for arm in arms if arm.name in whole]
    once = {arm.name: (_selection(bench, arm, data), 0.0) for arm in trained}
    seconds: dict[str, list[float]] = {arm.name: [] for arm in trained}
    for epoch in range(1, epochs + 1):
        for arm in trained:
            if isinstance(arm, LoopArm):
                spent, cache = _loop_epoch(bench, arm, data, epoch)
                once[arm.name] = once[arm.name][0], cache if epoch == 1 else once[arm.name][1]
            else:
                spent = _trainer_epoch(bench, arm, data.train.store, epoch)
            seconds[arm.name].append(spent)
            log.info("epoch %d: %s %.1f s", epoch, arm.name, spent)
    lengths = data.train.store.lengths
    task = TaskLengths(setting.task, len(lengths), lengths)
    others = [arm for arm in arms if arm not in trained]
    costs = {name: [Cost(*once[name], sum(spent))] for name, spent in seconds.items()}
    costs |= {arm.name: [] for arm in others}
    for number in range(rounds if others else 0):
        measured = measure_round(bench, [task], others, count, reverse=number % 2 == 1)
        for arm in others:
            if arm.name in measured:
                epoch = epoch_of(arm, task, setting.batch_size)
                costs[arm.name].append(projected(measured[arm.name], epoch, epochs))
    base, lines = arms[0].name, []
    for arm in arms:
        line = line_of(arm, costs, base, projection=arm in others)
        if arm in trained and epochs > 1:
            share = sum(once[arm.name]) / epochs
            _, line["spread"] = ratio(seconds[base], [spent + share for spent in seconds[arm.name]])
        lines.append(line | {"epochs": seconds.get(arm.name, [])})
    shape = {"task": task.task, "examples": task.examples, "mean_tokens": round(task.mean, 2)}
    return shape | {"arms": lines}


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


def _loop_epoch(bench: Bench, arm: LoopArm, data: TaskData, epoch: int) -> tuple[float, float]:
    """Train an epoch in the loop; return its seconds, and those of the cache."""
    changes = ("train.epochs=1", "protocol.evaluate=false", f"seed={epoch}")
    outcome = bench.train(bench.setting.run(*arm.overrides, *changes), data)
    if bench.runtime.device.type == "cpu":
        return outcome.cpu_seconds, outcome.cache.cpu_seconds
    return outcome.seconds, outcome.cache.seconds


def _trainer_epoch(bench: Bench, arm: TrainerArm, store: TokenStore, epoch: int) -> float:
    """Train an epoch with `Trainer`; return its seconds, the step that warms up counted as any."""
    order, offsets = _order(arm, store, bench.setting.batch_size, epoch), store.offsets
    examples = [
        {"input_ids": store.ids[offsets[i] : offsets[i + 1]].tolist(), "labels": int(store.labels[i])}
        for i in order
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
