"""A whole training, measured to its end: on real data arms in turn by epoch, and a small model on more and
more examples and epochs.
"""

from __future__ import annotations

import logging
import shutil
from statistics import mean, median
from typing import Any

import numpy as np

from layertune.benchmark.arms import Bench, LoopArm, clock_of, selection_seconds
from layertune.benchmark.lengths import TaskLengths, across, split_of
from layertune.benchmark.measure import Arm, arms_of_round, epoch_of, line_of, measure_round
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
    On a CUDA device, where graphs are captured once in a training, the loop takes all epochs at a time.

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
    lengths = data.train.store.lengths
    selection_seconds(bench, lengths)  # what a process does first is slow
    once = {arm.name: (_selection(bench, arm, data), 0.0) for arm in trained}
    seconds: dict[str, list[float]] = {arm.name: [] for arm in trained}
    on_cuda = bench.runtime.device.type == "cuda"
    at_once = epochs if on_cuda else 1
    for arm in trained if on_cuda else ():  # a device loads kernels for each new width
        arm.steps(bench, across([arm.order(lengths, setting.batch_size, 0)], count))
    for epoch in range(1, epochs + 1):
        for arm in trained:
            if isinstance(arm, TrainerArm):
                spent = [_trainer_epoch(bench, arm, data.train.store, epoch)]
            elif (epoch - 1) % at_once == 0:
                spent, cache = _loop_epochs(bench, arm, data, at_once, seed=epoch)
                once[arm.name] = once[arm.name][0], cache if epoch == 1 else once[arm.name][1]
            else:
                continue
            seconds[arm.name] += spent
            log.info("epoch %d: %s %s s", epoch, arm.name, " ".join(f"{s:.1f}" for s in spent))
    task = TaskLengths(setting.task, len(lengths), lengths)
    others = [arm for arm in arms if arm not in trained]
    costs = {name: [Cost(*once[name], sum(spent))] for name, spent in seconds.items()}
    costs |= {arm.name: [] for arm in others}
    for number in range(rounds if others else 0):
        arms_now = arms_of_round(others, number)
        measured = measure_round(bench, [task], arms_now, count) if arms_now else {}
        for arm in arms_now:
            epoch = epoch_of(arm, task, setting.batch_size)
            costs[arm.name].append(projected(measured[arm.name], epoch, epochs))
    base, lines = arms[0].name, []
    for arm in arms:
        line = line_of(arm, costs, base, projection=arm in others)
        if arm in trained and epochs > 1:
            together = on_cuda and isinstance(arm, LoopArm)
            spent = _by_epoch(seconds[arm.name], sum(once[arm.name]), together)
            _, line["spread"] = ratio(seconds[base], spent)
        lines.append(line | {"epochs": seconds.get(arm.name, [])})
    shape = {"task": task.task, "examples": task.examples, "mean_tokens": round(task.mean, 2)}
    return shape | {"arms": lines}


def measure_growth(
    bench: Bench, arm: LoopArm, lengths: np.ndarray, sizes: list[tuple[int, int]], rounds: int = 1
) -> list[dict[str, Any]]:
    """Train an arm on the first n examples for some epochs: selection, cache and every step.

    Layers are chosen before any training, by the weights as they are.

    Args:
        bench: the model.
        arm: with layers to choose.
        lengths: of all examples.
        sizes: examples and epochs of each training.
        rounds: of all trainings in turn, every other one backwards; the shortest of each stands, with what
            the choice of its layers took.
    """
    now = clock_of(bench.runtime.device)
    selection_seconds(bench, lengths)  # what a process does first is slow
    chosen = [selection_seconds(bench, lengths[:examples])[0] for examples, _ in sizes]
    spent: list[list[float]] = [[] for _ in sizes]
    places = range(len(sizes))
    for number in range(rounds):
        for place in reversed(places) if number % 2 else places:
            examples, epochs = sizes[place]
            shutil.rmtree(bench.setting.outputs / "cache", ignore_errors=True)
            run = bench.setting.run(*arm.overrides, f"train.epochs={epochs}", "protocol.evaluate=false")
            data = bench.data(split_of(lengths[:examples], run.task.max_length))
            start = now()
            bench.train(run, data)
            spent[place].append(chosen[place] + float(now() - start))
    return [
        {
            "arm": arm.name,
            "examples": examples,
            "epochs": epochs,
            "selection": chosen[place],
            "rounds": spent[place],
            "seconds": min(spent[place]),
        }
        for place, (examples, epochs) in enumerate(sizes)
    ]


def _by_epoch(spent: list[float], once: float, together: bool) -> list[float]:
    """Share what comes once out among the epochs: selection and cache, and, where one training took them
    together, what the first takes more than the others, as the capture of graphs.
    """
    more = max(0.0, spent[0] - median(spent[1:])) if together else 0.0
    share = (once + more) / len(spent)
    return [spent[0] - more + share, *(seconds + share for seconds in spent[1:])]


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


def _loop_epochs(
    bench: Bench, arm: LoopArm, data: TaskData, epochs: int, seed: int
) -> tuple[list[float], float]:
    """Train in the loop; return the seconds of each epoch, and those of the cache."""
    changes = (f"train.epochs={epochs}", "protocol.evaluate=false", f"seed={seed}")
    outcome = bench.train(bench.setting.run(*arm.overrides, *changes), data)
    if bench.runtime.device.type == "cpu":
        return [outcome.cpu_seconds], outcome.cache.cpu_seconds
    return [entry["seconds"] for entry in outcome.history], outcome.cache.seconds


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
