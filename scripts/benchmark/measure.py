"""Speed: rounds of all arms in turn, A B B A, from which whole trainings are projected, and whole trainings.

What a step costs depends on its arm and its padded width, not on the task. A round therefore measures each
arm on one set of batches of widths that cover all tasks, and projects every task from it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean, median
from typing import Any

import numpy as np
import torch

from layertune.cache_store import CacheStore
from layertune.fast.cache import build_entry, open_source
from layertune.models import load_tokenizer
from layertune.scoring import cosine
from layertune.scoring.adaptive import adaptive_scores
from layertune.scoring.cached import cached_scores
from layertune.tasks import TaskData, TokenStore, load_task, sorted_batches
from scripts.benchmark.arms import Arm, Bench, LoopArm, Setting, TrainerArm, clock_of
from scripts.benchmark.lengths import TaskLengths, across, split_of, widths_of
from scripts.benchmark.project import (
    LORA,
    PADDING,
    USER,
    Cost,
    Curve,
    Epoch,
    Round,
    median_cost,
    projected,
    ratio,
)

log = logging.getLogger(__name__)

PASS_ROWS, PASSES = 64, 2  # rows of a batch of the passes that score and cache; batches that are measured
COPIES = 16  # of a batch in a measured entry of the cache on a CUDA device
SCORED = 2048  # examples among which adaptive scoring may choose


# -- selection and cache ------------------------------------------------------------------------------------


def cache_curve(bench: Bench, layer: int, batches: list[np.ndarray]) -> Curve:
    """Return the cost of the cache by batches of its own pass, with its checks and its opening.

    On a CUDA device an entry holds `COPIES` of a batch, else what comes once per entry would be most of it.
    """
    device = bench.runtime.device
    copies = COPIES if bench.on_cuda else 1
    cache = CacheStore(bench.setting.outputs / "cache" / "measured", 10**12)
    autocast = bench.runtime.autocast
    now, seconds = clock_of(device), []
    for lengths in batches:
        store, key = split_of(np.tile(lengths, copies), None).store, {"layer": layer}
        shutil.rmtree(cache.folder, ignore_errors=True)
        start = now()
        build_entry(bench.model, store, layer, "bf16", cache, key, autocast)
        entry = cache.find(key)
        assert entry is not None
        open_source(entry, store, layer, torch.float32, device)
        seconds.append(float(now() - start) / copies)
    return Curve(tuple(widths_of(batches).tolist()), tuple(seconds))


def selection_curve(bench: Bench, batches: list[np.ndarray]) -> Curve:
    """Return the cost of scoring all examples, by batches of that pass."""
    now, seconds = clock_of(bench.runtime.device), []
    for lengths in batches:
        store = split_of(lengths, None).store
        start = now()
        cosine(bench.model, [store.batch(np.arange(len(store)))])
        seconds.append(now() - start)
    return Curve(tuple(widths_of(batches).tolist()), tuple(seconds))


def selection_seconds(bench: Bench, lengths: np.ndarray) -> tuple[float, int]:
    """Return the cost of choosing layers where few examples decide, and how many it took of these weights."""
    store = split_of(lengths[:SCORED], None).store
    now = clock_of(bench.runtime.device)
    start = now()
    scores = adaptive_scores(cosine, bench.model, store, "lowest", 3)
    return float(now() - start), scores.examples


# -- rounds -------------------------------------------------------------------------------------------------


def passes_over(lengths: np.ndarray) -> list[np.ndarray]:
    """Return the batches of a pass over all examples, sorted by length."""
    return [lengths[rows] for rows in sorted_batches(lengths, PASS_ROWS)]


def batches_of(
    arms: Sequence[Arm], tasks: Sequence[TaskLengths], batch_size: int, count: int
) -> dict[str, list[np.ndarray]]:
    """Return `count` batches for each arm, in its order, narrow ones first: their widths cover all tasks."""
    orders = {
        order: across([order(task.lengths, batch_size, 0) for task in tasks], count)
        for order in dict.fromkeys(arm.order for arm in arms)
    }
    return {arm.name: orders[arm.order] for arm in arms}


def measure_round(
    bench: Bench, tasks: Sequence[TaskLengths], arms: Sequence[Arm], count: int
) -> dict[str, Round]:
    """Measure all arms once, each on `count` batches: every other one on the way from the first arm to the
    last, the rest on the way back, so that a machine that grows slower or faster does so for all. One that
    pads to the maximum, whose steps are long and all alike, comes in between. The first arm warms the process
    up.

    Layers are chosen before, by the weights as they are: how many examples decide depends on them, and arms
    train.
    """
    batches = batches_of(arms, tasks, bench.setting.batch_size, count)
    passes = across([passes_over(task.lengths) for task in tasks], min(PASSES, count))
    reads_few = {arm.name for arm in arms if arm.scored and arm.mode == "fast"}
    reads_all = {arm.name for arm in arms if arm.scored} - reads_few
    selection_curve(bench, passes if bench.on_cuda else passes[:1])  # what comes first is slow
    all_read = selection_curve(bench, passes) if reads_all else None
    few = {task.task: selection_seconds(bench, task.lengths) for task in tasks if reads_few}
    arms[0].steps(
        bench, batches[arms[0].name][-1:]
    )  # slow again: the first backward pass, of the widest batch
    steps: dict[str, Curve] = {}
    cached: dict[str, int | None] = {}
    for arm in sorted(arms, key=lambda arm: arm.pad_to is not None):
        half = batches[arm.name] if arm.pad_to else batches[arm.name][::2]
        steps[arm.name], cached[arm.name] = arm.steps(bench, half)
    for arm in reversed(arms):
        if not arm.pad_to and count > 1:
            steps[arm.name] += arm.steps(bench, batches[arm.name][1::2])[0]
        log.info("%s: %s s", arm.name, " ".join(f"{s:.2f}" for s in steps[arm.name].seconds))
    below = {layer for layer in cached.values() if layer is not None}
    for layer in below if bench.on_cuda else ():
        cache_curve(bench, layer, passes)
    caches = {layer: cache_curve(bench, layer, passes) for layer in sorted(below)}
    return {
        arm.name: Round(
            steps[arm.name],
            select=all_read if arm.name in reads_all else None,
            select_few={task: cost for task, (cost, _) in few.items()} if arm.name in reads_few else None,
            examples={task: read for task, (_, read) in few.items()} if arm.name in reads_few else None,
            cache=caches.get(cached[arm.name]),
        )
        for arm in arms
    }


def arms_of_round(arms: Sequence[Arm], number: int) -> list[Arm]:
    """Return the arms of a round, counted from 0: one that pads to the maximum is measured in the first."""
    return [arm for arm in arms if number == 0 or not arm.pad_to]


def combine(
    rounds: Sequence[dict[str, Round]], tasks: Sequence[TaskLengths], arms: Sequence[Arm], setting: Setting
) -> list[dict[str, Any]]:
    """Project rounds (arm -> what was measured) on tasks.

    Returns:
        Plain values for the result file, per task and arm: the seconds of a whole training, the ratio of the
        first arm to it and the spread of that ratio over the rounds (None where there is one).
    """
    found = []
    for task in tasks:
        costs = {}
        for arm in arms:
            epoch = epoch_of(arm, task, setting.batch_size)
            costs[arm.name] = [
                projected(one[arm.name], epoch, setting.epochs) for one in rounds if arm.name in one
            ]
        lines = [line_of(arm, costs, arms[0].name, projection=True) for arm in arms if costs[arm.name]]
        found.append(task.facts | {"arms": lines})
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
    totals = {name: [cost.total for cost in found] for name, found in costs.items() if found}
    middle, spread = ratio(totals[base], totals[arm.name])
    cost = median_cost(costs[arm.name])
    return arm.facts | {
        "projected": projection,
        "seconds": asdict(cost) | {"total": cost.total},
        "ratio": middle,
        "spread": spread,
        "ratio_to": {
            name: ratio(totals[name], totals[arm.name]) for name in (PADDING, LORA, USER) if name in totals
        },
    }


# -- whole trainings ----------------------------------------------------------------------------------------


def measure_end_to_end(
    bench: Bench, arms: list[Arm], epochs: int, whole: Sequence[str], rounds: int, count: int
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
    selections = {arm.name: selection_of(bench, arm, data) for arm in trained}
    caches = dict.fromkeys(selections, 0.0)
    seconds: dict[str, list[float]] = {arm.name: [] for arm in trained}
    for arm in trained if bench.on_cuda else ():  # a device loads kernels for each new width
        arm.steps(bench, across([arm.order(lengths, setting.batch_size, 0)], count))
    for epoch in range(1, epochs + 1):
        for arm in trained:
            if isinstance(arm, TrainerArm):
                spent = [trainer_epoch(bench, arm, data.train.store, epoch)]
            elif epoch > 1 and bench.on_cuda:
                continue
            else:
                spent, cache = _loop_epochs(bench, arm, data, epochs if bench.on_cuda else 1, seed=epoch)
                if epoch == 1:
                    caches[arm.name] = cache
            seconds[arm.name] += spent
            log.info("epoch %d: %s %s s", epoch, arm.name, " ".join(f"{s:.1f}" for s in spent))
    task = TaskLengths(setting.task, len(lengths), lengths)
    others = [arm for arm in arms if arm not in trained]
    costs = {name: [Cost(selections[name], caches[name], sum(spent))] for name, spent in seconds.items()}
    costs |= {arm.name: [] for arm in others}
    for number in range(rounds):
        arms_now = arms_of_round(others, number)
        measured = measure_round(bench, [task], arms_now, count) if arms_now else {}
        for arm in arms_now:
            epoch = epoch_of(arm, task, setting.batch_size)
            costs[arm.name].append(projected(measured[arm.name], epoch, epochs))
    base, lines = arms[0].name, []
    for arm in arms:
        line = line_of(arm, costs, base, projection=arm in others)
        if arm in trained and epochs > 1:
            once = selections[arm.name] + caches[arm.name]
            together = bench.on_cuda and isinstance(arm, LoopArm)
            _, line["spread"] = ratio(seconds[base], _by_epoch(seconds[arm.name], once, together))
        lines.append(line | {"epochs": seconds.get(arm.name, [])})
    return task.facts | {"arms": lines}


def _by_epoch(spent: list[float], once: float, together: bool) -> list[float]:
    """Share what comes once out among the epochs: selection and cache, and, where one training took them
    together, what the first takes more than the others, as the capture of graphs.
    """
    more = max(0.0, spent[0] - median(spent[1:])) if together else 0.0
    share = (once + more) / len(spent)
    return [spent[0] - more + share, *(seconds + share for seconds in spent[1:])]


def selection_of(bench: Bench, arm: Arm, data: TaskData) -> float:
    """Return the cost of choosing the layers as the arm's mode does it; 0 for arms that choose none."""
    if not arm.scored:
        return 0.0
    now = clock_of(bench.runtime.device)
    start = now()
    shutil.rmtree(bench.setting.outputs / "cache" / "scores", ignore_errors=True)
    run = bench.setting.run("method=low_k", f"train={arm.mode}")
    cached_scores(run, bench.model.eval(), data, bench.runtime.device)
    return float(now() - start)


def _loop_epochs(
    bench: Bench, arm: LoopArm, data: TaskData, epochs: int, seed: int
) -> tuple[list[float], float]:
    """Train in the loop; return the seconds of each epoch, and those of the cache."""
    changes = (f"train.epochs={epochs}", "protocol.evaluate=false", f"seed={seed}")
    outcome = bench.train(bench.setting.run(*arm.overrides, *changes), data)
    if not bench.on_cuda:
        return [outcome.cpu_seconds], outcome.cache.cpu_seconds
    return [entry["seconds"] for entry in outcome.history], outcome.cache.seconds


def trainer_epoch(bench: Bench, arm: TrainerArm, store: TokenStore, epoch: int) -> float:
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


def measure_growth(
    bench: Bench, arm: LoopArm, lengths: np.ndarray, sizes: list[tuple[int, int]], rounds: int = 1
) -> list[dict[str, Any]]:
    """Train an arm on the first n examples for some epochs (`sizes`): selection, cache and every step.

    Layers are chosen before any training, by the weights as they are. Several rounds take all trainings in
    turn, every other one backwards; the shortest of each stands, with what the choice of its layers took.
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
            "selection": selection,
            "rounds": seconds,
            "seconds": min(seconds),
        }
        for (examples, epochs), selection, seconds in zip(sizes, chosen, spent, strict=True)
    ]
