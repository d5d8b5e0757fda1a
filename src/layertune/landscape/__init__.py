"""Landscapes: what every set of k layers reaches on a task, so that any rule of choice can be placed.

    from layertune import landscape

    sets = landscape.load("gte_small", "trec")                 # one row per set and seed
    landscape.percentile(sets, (2, 7, 11))                     # 100: no other set of three is better
    landscape.evaluate(sets, lambda num_layers, k: range(1, k + 1), k=3)

`python run.py -m hydra/sweeper=landscape` fills them (docs/landscape.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layertune.errors import ConfigError
from layertune.landscape.questions import Scores, bootstrap, interval, regret
from layertune.landscape.questions import percentile as _percentile
from layertune.landscape.rows import FOLDER, Ground, Row, read_rows

if TYPE_CHECKING:
    import pandas

Rule = Callable[[int, int], Iterable[int]]

__all__ = ["Placed", "auto", "evaluate", "ground_of", "load", "percentile", "scores_of"]


@dataclass(frozen=True)
class Placed:
    """Where a set of layers lands among all sets of its size.

    Attributes:
        layers: from 1.
        score: mean over the seeds, a fraction.
        percentile: of the other sets that are worse, in per cent; equals count half.
        low, high: its 95 % interval over seeds and evaluation rows drawn anew; over seeds alone where the
            score is not the share of rows that were answered rightly.
        regret: what the best set reaches more, chosen on one seed and read on another; None with one seed.
        sets: how many sets were compared.
        seeds: how many times each was trained.
    """

    layers: tuple[int, ...]
    score: float
    percentile: float
    low: float
    high: float
    regret: float | None
    sets: int
    seeds: int


def load(model: str, task: str, results: str | Path = "results", which: str = "") -> pandas.DataFrame:
    """Return the landscape of a model on a task: a row per set and seed.

    Columns: layers (from 1), k, lowest, seed, score, best, loss, seconds, cache_seconds, wrong, run_id. What
    all rows share is in `attrs["ground"]`.

    Args:
        model: by its name in configs/model.
        task: by its name in configs/task.
        results: folder of results.
        which: part of the name of the file, where several settings were tried.

    Raises:
        ConfigError: there is none, or there are several.
        RecordError: its file is damaged.
    """
    folder = Path(results) / FOLDER
    paths = [path for path in sorted(folder.glob(f"{model}-{task}-*.jsonl")) if which in path.name]
    if len(paths) != 1:
        found = f"{len(paths)} are there: {', '.join(path.name for path in paths)}" if paths else "none is"
        raise ConfigError(
            f"one landscape of model={model} task={task} is wanted in {folder}, and {found} (which=<part of "
            "the name> chooses; python run.py -m hydra/sweeper=landscape makes one)."
        )
    return table_of(*read_rows(paths[0]))


def table_of(ground: Ground, rows: Sequence[Row]) -> pandas.DataFrame:
    """Return the rows of a landscape as `load` does."""
    import pandas

    plain = ("layers", "seed", "score", "best", "loss", "seconds", "cache_seconds", "wrong", "run_id")
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in plain}
    columns["k"] = [len(row.layers) for row in rows]
    columns["lowest"] = [row.layers[0] for row in rows]
    table = pandas.DataFrame(columns)
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
    of_size = {
        (layers, seed): (score, wrong)
        for layers, seed, score, wrong, size in zip(
            sets["layers"], sets["seed"], sets["score"], sets["wrong"], sets["k"], strict=True
        )
        if size == k
    }
    by_seed = {seed: {layers for layers, other in of_size if other == seed} for _, seed in of_size}
    most = max(map(len, by_seed.values()), default=0)
    seeds = tuple(sorted(seed for seed, there in by_seed.items() if len(there) == most))
    names = tuple(sorted(set.intersection(*(by_seed[seed] for seed in seeds)))) if seeds else ()
    if len(names) < 2:
        raise ConfigError(
            f"the landscape of {ground.model} on {ground.task} holds {len(names)} sets of {k} layers: "
            "nothing to compare."
        )
    cells = [[of_size[layers, seed] for seed in seeds] for layers in names]
    values = np.array([[score for score, _ in row] for row in cells])
    right = None
    known = all(isinstance(wrong, tuple) for row in cells for _, wrong in row)
    if ground.metric == "accuracy" and ground.gold is not None and known:
        right = np.ones((*values.shape, len(ground.gold)), dtype=bool)
        for i, row in enumerate(cells):
            for j, (_, wrong) in enumerate(row):
                right[i, j, [place for place, _ in wrong]] = False
    return Scores(names, seeds, values, right)


def percentile(sets: pandas.DataFrame, layers: Iterable[int]) -> float:
    """Return how many per cent of the other sets of as many layers are worse; equals count half.

    Raises:
        ConfigError: the landscape does not hold this set.
    """
    chosen = _checked(layers)
    scores = scores_of(sets, len(chosen))
    return _percentile(scores, _place(scores, chosen))


def evaluate(sets: pandas.DataFrame, rule: Rule | Iterable[int], k: int = 3) -> Placed:
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
    return placed(scores, chosen, bootstrap(scores))


def placed(scores: Scores, chosen: tuple[int, ...], drawn: np.ndarray) -> Placed:
    """Place a set; `drawn` is of `bootstrap`, which all rules share."""
    place = _place(scores, chosen)
    low, high = interval(scores, place, drawn)
    return Placed(
        layers=chosen,
        score=float(scores.means[place]),
        percentile=_percentile(scores, place),
        low=low,
        high=high,
        regret=regret(scores, place),
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
