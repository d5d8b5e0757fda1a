"""Landscapes: what every set of k layers reaches on a task, so that any rule of choice can be placed.

    from layertune import landscape

    sets = landscape.load("gte_small", "trec")                 # one row per set and seed
    landscape.percentile(sets, (2, 7, 11))                     # 100: no other set of three is better
    landscape.evaluate(sets, lambda num_layers, k: range(1, k + 1), k=3)

`python run.py -m hydra/sweeper=landscape` fills them (docs/landscape.md).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from layertune.errors import ConfigError, did_you_mean
from layertune.landscape.questions import Array, Scores, bootstrap, interval, percentiles, regret
from layertune.landscape.rows import FOLDER, SHIPPED, Ground, Row, read_rows

if TYPE_CHECKING:
    import pandas

Chooser = Callable[[int, int], Iterable[int]]

__all__ = ["Placed", "auto", "evaluate", "ground_of", "load", "percentile", "scores_of"]


@dataclass(frozen=True)
class Placed:
    """Where a rule lands among all sets of one size."""

    layers: tuple[int, ...]  # from 1; empty where it draws among several sets, whose means the numbers are
    score: float  # mean over the seeds, a fraction
    percentile: float  # of the other sets that are worse, in per cent; equals count half
    # Its 95 % interval over seeds and evaluation rows drawn anew; over seeds alone where the score is not the
    # share of rows that were answered rightly.
    low: float
    high: float
    regret: float | None  # what the best set reaches more, chosen on one seed, read on another; None with one
    sets: int  # how many were compared
    seeds: int  # how many times each was trained


def load(model: str, task: str, results: str | Path | None = None, which: str = "") -> pandas.DataFrame:
    """Return the landscape of a model on a task: a row per set and seed.

    Columns: layers (from 1), k, lowest, seed, score, best, loss, seconds, cache_seconds, wrong, run_id. What
    all rows share is in `attrs["ground"]`.

    Args:
        model: by its name in configs/model.
        task: by its name in configs/task.
        results: folder of results; None: `results` of the working folder, then what this package carries.
        which: part of the name of the file, where several settings were tried.

    Raises:
        ConfigError: there is none, or there are several.
        RecordError: its file is damaged.
    """
    folders = [Path("results") / FOLDER, SHIPPED] if results is None else [Path(results) / FOLDER]
    files = [sorted(folder.glob("*-*-*.jsonl")) for folder in folders]
    asked, pairs = f"{model}-{task}", sorted({_pair(path) for some in files for path in some})
    wanted = ([path for path in some if _pair(path) == asked and which in path.name] for some in files)
    found = next(filter(None, wanted), [])  # what lies nearer goes first
    if len(found) == 1:
        return table_of(*read_rows(found[0]))
    there = [path.name for path in found] or pairs
    meant = "" if asked in pairs else did_you_mean(asked, pairs)
    raise ConfigError(
        f"One landscape of {asked} is wanted (which=<part of a name> chooses); there are: "
        f"{', '.join(there) or 'none'}.{meant} "
        f"python run.py -m hydra/sweeper=landscape model={model} task={task} k=3 makes one."
    )


def _pair(path: Path) -> str:
    """Return `<model>-<task>` of a landscape's file."""
    return path.name.rpartition("-")[0]


def table_of(ground: Ground, rows: Sequence[Row]) -> pandas.DataFrame:
    """Return the rows of a landscape as `load` does."""
    import pandas

    plain = ("layers", "seed", "score", "best", "loss", "seconds", "cache_seconds", "wrong", "run_id")
    table = pandas.DataFrame({name: [getattr(row, name) for row in rows] for name in plain})
    table["k"] = [len(row.layers) for row in rows]
    table["lowest"] = [row.layers[0] for row in rows]
    table.attrs["ground"] = ground
    return table


def ground_of(sets: pandas.DataFrame) -> Ground:
    """Return what the rows of a landscape share."""
    ground = sets.attrs.get("ground")
    if not isinstance(ground, Ground):
        raise ConfigError("this table is no landscape: take what layertune.landscape.load returns.")
    return ground


def scores_of(sets: pandas.DataFrame, k: int) -> Scores:
    """Return the scores of all sets of k layers, of the seeds that most of them have.

    Sets that one of these seeds lacks are left out.

    Raises:
        ConfigError: fewer than two sets are there.
    """
    ground = ground_of(sets)
    of_size = sets[sets["k"] == k]
    keys = list(zip(of_size["layers"], of_size["seed"], strict=True))
    score, wrong = (dict(zip(keys, of_size[name], strict=True)) for name in ("score", "wrong"))
    trained = Counter(seed for _, seed in keys)
    seeds = tuple(sorted(seed for seed in trained if trained[seed] == max(trained.values())))
    names = tuple(sorted({one for one, _ in keys if all((one, seed) in score for seed in seeds)}))
    if len(names) < 2:
        raise ConfigError(
            f"the landscape of {ground.model} on {ground.task} holds {len(names)} sets of {k} layers: "
            "nothing to compare."
        )
    values = np.array([[score[one, seed] for seed in seeds] for one in names])
    missed = [[wrong[one, seed] for seed in seeds] for one in names]
    if ground.gold is None or not all(isinstance(one, tuple) for row in missed for one in row):
        return Scores(names, seeds, values)
    gold = np.array(ground.gold)
    answers = np.tile(gold, (*values.shape, 1))
    for i, j in np.ndindex(values.shape):
        for row, answer in missed[i][j]:
            answers[i, j, row] = answer
    return Scores(names, seeds, values, ground.metric, gold, answers)


def percentile(sets: pandas.DataFrame, layers: Iterable[int]) -> float:
    """Return how many per cent of the other sets of as many layers are worse; equals count half.

    Raises:
        ConfigError: the landscape does not hold this set.
    """
    chosen = _checked(layers)
    scores = scores_of(sets, len(chosen))
    return float(percentiles(scores.means)[_place(scores, chosen)])


def evaluate(sets: pandas.DataFrame, rule: Chooser | Iterable[int], k: int = 3) -> Placed:
    """Place a rule, or a set of layers, among all sets of its size.

    Args:
        sets: a landscape.
        rule: is given the number of layers and k, and returns layers from 1; or these layers.
        k: how many it chooses.

    Raises:
        ConfigError: the landscape does not hold what it chooses.
    """
    chosen = _checked(rule(ground_of(sets).num_layers, k) if callable(rule) else rule)
    scores = scores_of(sets, len(chosen))
    return placed(scores, [chosen], bootstrap(scores))


def placed(scores: Scores, chosen: Sequence[tuple[int, ...]], drawn: Array) -> Placed:
    """Place a rule that takes one of these sets with equal chance; `drawn` is of `bootstrap`."""
    places = [_place(scores, layers) for layers in chosen]
    low, high = interval(drawn, places)
    return Placed(
        layers=chosen[0] if len(chosen) == 1 else (),
        score=float(scores.means[places].mean()),
        percentile=float(percentiles(scores.means)[places].mean()),
        low=low,
        high=high,
        regret=regret(scores, places),
        sets=len(scores.sets),
        seeds=len(scores.seeds),
    )


def auto(sets: pandas.DataFrame, k: int) -> tuple[int, ...]:
    """Choose the k layers that do best alone: the additive model's pick from one run per layer.

    Unlike every other rule it trains: L runs of one layer each (k=1 of the landscape).

    Raises:
        ConfigError: some layer was not trained alone.
    """
    num_layers = ground_of(sets).num_layers
    alone = scores_of(sets, 1)
    if len(alone.sets) < num_layers:
        raise ConfigError(f"{len(alone.sets)} of {num_layers} layers were trained alone: k=1 trains them.")
    best_first = sorted(range(num_layers), key=lambda place: -alone.means[place])  # ties: the lower layer
    return tuple(sorted(place + 1 for place in best_first[:k]))


def _checked(layers: Iterable[int]) -> tuple[int, ...]:
    chosen = tuple(sorted(int(layer) for layer in layers))
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(f"{list(chosen)} is no set of layers: it lists different numbers from 1.")
    return chosen


def _place(scores: Scores, chosen: tuple[int, ...]) -> int:
    if chosen not in scores.sets:
        raise ConfigError(f"the landscape does not hold layers {', '.join(map(str, chosen))}.")
    return scores.sets.index(chosen)
