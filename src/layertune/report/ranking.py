"""Many methods on many tasks: average ranks with their critical difference, and probabilities of improvement.

Ranks as Demšar (2006) compares classifiers over data sets: Friedman's test, then Nemenyi's distance. The
probability of improvement as Agarwal et al. (2021, rliable): that a run of one method beats a run of another
on the same task, the mean over tasks, with an interval from runs drawn anew within each task.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from layertune.report.values import TableValues

ALPHA = 0.05
DRAWS, SEED = 2000, 0  # of the bootstrap
Runs = Mapping[tuple[str, str], Sequence[float]]  # method, task -> runs; more is better


@dataclass(frozen=True)
class Ranks:
    """Methods in order of their average rank over tasks; 1 is the best."""

    methods: tuple[str, ...]
    average: tuple[float, ...]
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]  # methods and tasks without which the block would have gaps
    p: float  # Friedman's, that all methods are alike
    critical: float  # Nemenyi's: average ranks further apart than this differ

    def groups(self) -> list[tuple[int, int]]:
        """Return the longest stretches of methods (first and last place) that do not differ."""
        found: list[tuple[int, int]] = []
        for first, rank in enumerate(self.average):
            last = max(place for place, other in enumerate(self.average) if other - rank <= self.critical)
            if last > first and not any(last <= end for _, end in found):
                found.append((first, last))
        return found


@dataclass(frozen=True)
class Improvement:
    """How likely a run of one method beats one of another on the same task."""

    method: str
    other: str
    tasks: int
    probability: float
    low: float  # of the 95 % interval
    high: float


def runs_of(tables: Iterable[TableValues]) -> dict[tuple[str, str], list[float]]:
    """Return the runs of finished cells of a metric, without those that learned nothing or of mixed data."""
    found: dict[tuple[str, str], list[float]] = {}
    for table in tables:
        for value in table.cells.values():
            row, column = value.cell.row, value.cell.column
            plain = column.measure == "metric" and not column.mean_of and not row.of
            if plain and value.state == "done" and value.has_learned and column.key not in table.column_marks:
                found[row.name, column.task] = list(value.values.values())
    return found


def ranks(runs: Runs) -> Ranks | None:
    """Return the average ranks of methods over the tasks that all have; None for fewer than three of either.

    What leaves most gaps is left out first, a method before a task.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    methods, tasks = (list(dict.fromkeys(key[place] for key in runs)) for place in (0, 1))
    left_out: list[str] = []
    while gaps := [(m, t) for m in methods for t in tasks if (m, t) not in runs]:
        share = {m: sum(gap[0] == m for gap in gaps) / len(tasks) for m in methods}
        share |= {t: sum(gap[1] == t for gap in gaps) / len(methods) for t in tasks}
        worst = max(share, key=lambda name: share[name])
        left_out.append(worst)
        (methods if worst in methods else tasks).remove(worst)
    if len(methods) < 3 or len(tasks) < 3:
        return None
    means = [[sum(runs[m, t]) / len(runs[m, t]) for m in methods] for t in tasks]
    of_tasks = [rankdata([-round(mean, 9) for mean in own]) for own in means]
    average = {m: float(sum(own[place] for own in of_tasks)) / len(tasks) for place, m in enumerate(methods)}
    ordered = sorted(methods, key=lambda m: average[m])
    k, n = len(methods), len(tasks)
    q = float(studentized_range.ppf(1 - ALPHA, k, math.inf)) / math.sqrt(2)
    return Ranks(
        methods=tuple(ordered),
        average=tuple(average[m] for m in ordered),
        tasks=tuple(tasks),
        left_out=tuple(left_out),
        p=float(friedmanchisquare(*zip(*means, strict=True)).pvalue),
        critical=q * math.sqrt(k * (k + 1) / (6 * n)),
    )


def improvement(runs: Runs, method: str, other: str) -> Improvement | None:
    """Return how likely one method beats another; None where they share no task."""
    import numpy as np

    tasks = [task for name, task in runs if name == method and (other, task) in runs]
    if not tasks:
        return None
    rng = np.random.default_rng(SEED)
    point, drawn = [], []
    for task in tasks:
        mine, theirs = np.asarray(runs[method, task]), np.asarray(runs[other, task])
        lead = mine[:, None] - theirs[None, :]
        wins = (lead > 1e-9) + 0.5 * (np.abs(lead) <= 1e-9)  # [runs of one, runs of the other]
        point.append(wins.mean())
        rows = rng.integers(len(mine), size=(DRAWS, len(mine), 1))
        columns = rng.integers(len(theirs), size=(DRAWS, 1, len(theirs)))
        drawn.append(wins[rows, columns].mean(axis=(1, 2)))
    low, high = np.quantile(np.mean(drawn, axis=0), [ALPHA / 2, 1 - ALPHA / 2])
    return Improvement(method, other, len(tasks), float(np.mean(point)), float(low), float(high))
