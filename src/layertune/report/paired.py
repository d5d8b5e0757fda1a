"""Is one row better than another beyond chance? Paired tests over tasks and seeds, exact for few pairs.

A pair is the same task with the same seed under both rows. The seeds of a task share its data, so they are
not independent tasks: where a comparison spans several tasks its units are the tasks, each the mean over its
seeds. Within a single task the units are the seeds, and the answer is about that task alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

ALPHA = 0.05
ASSUMPTIONS = (
    "Test: Wilcoxon's signed ranks, two-sided, exact (ties share ranks, units without a difference drop "
    "out). It assumes independent units whose differences lie symmetrically about the tested value: 0, or "
    'the stated margin of a claim that says "at most so much behind".',
    "Pairs and units: a pair is one task with one seed under both rows. Units are the tasks, each the mean "
    "over its seeds, because the seeds of a task share its data and are not independent tasks; within one "
    'task the units are the seeds, and the answer is about that task alone. "Over pairs" takes every task '
    "and seed as independent, which flatters p.",
    "In brackets the 95 % interval by Student's t over the units (three or more). Holm: p corrected for the "
    "number of tests of the claim that can reach p < 0.05; with fewer than six units that differ none can, "
    "whatever the numbers. A row chosen as the best on the evaluation split is favoured by that choice.",
)


@dataclass(frozen=True)
class SignedRank:
    """What Wilcoxon's signed-rank test says."""

    used: int  # differences that are not zero
    statistic: float  # W+: sum of the ranks of the positive differences
    p: float  # two-sided
    least_p: float  # the smallest p that so many differences can give


@dataclass(frozen=True)
class PairedTest:
    """One row against another. Differences are in the printed unit."""

    row: str
    other: str
    where: str  # a metric that is tested apart; "" otherwise
    against: float  # the tested difference; below 0: "at most so much behind"
    lower_is_better: bool  # for costs, and where the claim says that `row` is worse
    tasks: int
    pairs: int
    units: Literal["tasks", "seeds"]
    mean: float  # over the units
    low: float | None  # of the 95 % interval; None for a single unit
    high: float | None
    ranks: SignedRank  # over the units
    p_pairs: float  # every task and seed taken as independent
    p_holm: float  # of `ranks.p`, over the tests of a claim

    @property
    def lead(self) -> float:
        """How far the mean speaks for the claim; below 0 against it."""
        return (self.mean - self.against) * (-1.0 if self.lower_is_better else 1.0)

    @property
    def is_decisive(self) -> bool:
        """Whether the difference is beyond chance after the correction."""
        return self.p_holm < ALPHA

    @property
    def can_decide(self) -> bool:
        """Whether so many units could reach p < 0.05 at all."""
        return self.ranks.least_p < ALPHA


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """Test whether differences lie symmetrically about zero.

    The distribution is exact given the ranks: every combination of signs is equally likely.

    Choice: [tests of claims] differences of zero are left out, as Wilcoxon did; equal ones share their mean
    rank.
    """
    import numpy as np

    used = [rounded for difference in differences if (rounded := round(difference, 9)) != 0]
    doubled = _doubled_ranks([abs(difference) for difference in used])
    statistic = sum(rank for rank, difference in zip(doubled, used, strict=True) if difference > 0)
    chances = np.zeros(sum(doubled) + 1)  # of each doubled W+
    chances[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[: len(chances) - rank]
        chances = (chances + shifted) / 2
    tail = min(chances[: statistic + 1].sum(), chances[statistic:].sum())
    least = min(1.0, 2.0 ** (1 - len(used)))
    return SignedRank(len(used), statistic / 2, min(1.0, 2 * float(tail)), least)


def paired_test(
    row: str,
    other: str,
    differences: Mapping[str, Sequence[float]],
    where: str = "",
    against: float = 0.0,
    lower_is_better: bool = False,
) -> PairedTest:
    """Compare two rows.

    Args:
        row: name of the row that is said to be better.
        other: name of the row that it is compared with.
        differences: task -> `row` minus `other`, seed by seed; at least one.
        where: a metric that is tested apart from others.
        against: the difference that is tested.
        lower_is_better: whether a negative difference speaks for `row`.
    """
    means = [statistics.fmean(own) for own in differences.values()]
    pairs = [difference for own in differences.values() for difference in own]
    values = means if len(means) > 1 else pairs
    ranks = signed_rank([value - against for value in values])
    low, high = _interval(values)
    return PairedTest(
        row=row,
        other=other,
        where=where,
        against=against,
        lower_is_better=lower_is_better,
        tasks=len(means),
        pairs=len(pairs),
        units="tasks" if len(means) > 1 else "seeds",
        mean=statistics.fmean(values),
        low=low,
        high=high,
        ranks=ranks,
        p_pairs=signed_rank([pair - against for pair in pairs]).p,
        p_holm=ranks.p,
    )


def corrected(tests: Sequence[PairedTest]) -> tuple[PairedTest, ...]:
    """Return the tests of one claim with Holm's correction for their number.

    Tests too small to reach p < 0.05 can raise no false alarm: they keep their p and do not count (Tarone,
    1990).
    """
    holm = [test.ranks.p for test in tests]
    able = [index for index, test in enumerate(tests) if test.can_decide]
    largest = 0.0
    for done, index in enumerate(sorted(able, key=lambda index: tests[index].ranks.p)):
        largest = max(largest, (len(able) - done) * tests[index].ranks.p)
        holm[index] = min(1.0, largest)
    return tuple(replace(test, p_holm=p) for test, p in zip(tests, holm, strict=True))


def _doubled_ranks(sizes: Sequence[float]) -> list[int]:
    """Return twice the rank of each size, counted from 1; equal sizes share their mean rank."""
    ordered = sorted(sizes)
    first = {size: index for index, size in reversed(list(enumerate(ordered, start=1)))}
    return [2 * first[size] + ordered.count(size) - 1 for size in sizes]


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a mean by Student's t."""
    if len(values) < 2:
        return None, None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 1 - ALPHA / 2)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half
