"""How alike two orders of layers are: rank correlations of score vectors."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from layertune.report.figures.scores import TaskScores


@dataclass(frozen=True)
class Agreement:
    """Rank correlations of two score vectors, -1..1; 1 = the same order of layers."""

    one: TaskScores
    other: TaskScores
    spearman: float
    kendall: float  # tau-b


def agreement(one: TaskScores, other: TaskScores) -> Agreement:
    """Return how alike two tasks, or two samples of a task, order the layers."""
    return Agreement(one, other, *rank_correlations(one.values, other.values))


def rank_correlations(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return Spearman's rho and Kendall's tau-b of two vectors; nan where one is constant."""
    from scipy.stats import kendalltau, spearmanr

    return float(spearmanr(one, other).statistic), float(kendalltau(one, other).statistic)


def between_tasks(first: Sequence[TaskScores]) -> list[Agreement]:
    """Return the agreement of every two tasks, one sample of each."""
    return [agreement(one, other) for one, other in combinations(first, 2)]


def within_tasks(groups: Sequence[Sequence[TaskScores]]) -> list[Agreement]:
    """Return the agreement of every two samples of one task that gave distinct numbers."""
    return [agreement(one, other) for group in groups for one, other in combinations(group, 2)]


def defined(values: Iterable[float]) -> list[float]:
    """Return the correlations that exist: with a constant there is none."""
    return [value for value in values if math.isfinite(value)]


def median(values: Iterable[float]) -> float:
    """Return the median of the correlations that exist; nan of none."""
    return statistics.median(defined(values) or [float("nan")])
