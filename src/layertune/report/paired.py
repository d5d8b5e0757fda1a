"""Two rows of a table compared over the tasks and seeds that both have: effect, 95 % interval, p.

Differences are taken task by task and seed by seed. What they say of other tasks and seeds is asked of a
hierarchical bootstrap: tasks drawn anew, then the seeds within each. Its standard error has a closed form, so
nothing is drawn and the answer is the same everywhere; with few tasks its percentiles are far too narrow
(four tasks: 82 % in place of 95 %), so the interval takes Student's t over the tasks. Within one task the
units are the seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from layertune.report.rounding import printed

ALPHA = 0.05
ASSUMPTIONS = (
    "A test compares two rows over the pairs of task and seed that both have. First the effect: the mean "
    "over tasks, each the mean over its seeds. In brackets its 95 % interval: the standard error of a "
    "hierarchical bootstrap (tasks, then the seeds within each), times Student's t over the tasks; p by the "
    "same t, two-sided, against the claimed difference.",
    "Within one task the units are the runs: the spread over seeds is taken from all rows of the claim, and "
    "the answer is about that task and its evaluation split alone.",
    "Holm: p corrected for the number of tests of the claim. That all of several comparisons hold needs no "
    "correction (each must be beyond noise); that one of them fails does.",
)


@dataclass(frozen=True)
class Spread:
    """How far runs of one row and task lie apart, over seeds; sums pool rows."""

    squares: float = 0.0  # sum of squared distances to the row's mean
    freedom: int = 0  # degrees of freedom

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one row, given the values of its seeds."""
        return cls(_squares(values), len(values) - 1) if values else cls()

    def __add__(self, other: Spread) -> Spread:
        return Spread(self.squares + other.squares, self.freedom + other.freedom)

    @property
    def deviation(self) -> float:
        """Standard deviation of a run."""
        return math.sqrt(self.squares / self.freedom) if self.freedom else math.inf

    def reach(self, seeds: int, alpha: float) -> float:
        """Return how far two means over so many seeds lie apart by noise, but for a chance of `alpha`."""
        if not self.freedom or not seeds:
            return math.inf
        return _quantile(self.freedom, alpha) * self.deviation * math.sqrt(2 / seeds)


@dataclass(frozen=True)
class PairedTest:
    """One row against another. Differences are in the printed unit."""

    row: str
    other: str  # "" where a row is held against a bound
    where: str  # a metric that is tested apart; "" otherwise
    against: float  # the claimed difference
    lower_is_better: bool  # for costs, and where the claim says that `row` is worse
    tasks: int
    pairs: int
    units: Literal["tasks", "seeds"]
    mean: float  # over the units
    low: float | None  # of the 95 % interval; None where nothing tells how far the mean may be off
    high: float | None
    p: float | None  # two-sided, that the difference is the claimed one
    p_holm: float | None = None  # corrected over the tests of a claim
    chosen: bool = False  # one side was chosen by looking at the first seed, and is tested on the others

    @property
    def lead(self) -> float:
        """How far the mean speaks for the claim; below 0 against it."""
        return (self.mean - self.against) * (-1.0 if self.lower_is_better else 1.0)

    def decides(self, *, corrected: bool = True) -> bool | None:
        """Say whether the row is ahead of the claimed difference beyond noise; None where that is open."""
        p = self.p_holm if corrected else self.p
        return None if p is None or p >= ALPHA else self.lead > 0


def paired_test(
    row: str,
    other: str,
    differences: Mapping[str, Sequence[float]],
    where: str = "",
    against: float = 0.0,
    lower_is_better: bool = False,
    spread: Spread | None = None,
    chosen: bool = False,
) -> PairedTest:
    """Compare two rows.

    Args:
        row: name of the row that is said to be better.
        other: name of the row that it is compared with; "" where `differences` are the values of `row`.
        differences: task -> `row` minus `other`, seed by seed; at least one.
        where: a metric that is tested apart from others.
        against: the difference that is tested.
        lower_is_better: whether a negative difference speaks for `row`.
        spread: of a run within a single task; None = that of its differences.
        chosen: whether one of the rows was chosen on a seed that is not among the differences.
    """
    means = [statistics.fmean(own) for own in differences.values()]
    counts = [len(own) for own in differences.values()]
    mean = statistics.fmean(means)
    if len(means) > 1:
        error, freedom = _hierarchical_error(list(differences.values())), len(means) - 1
    elif spread is not None and counts[0] > 1:
        error = spread.deviation * math.sqrt((2 if other else 1) / counts[0])
        freedom = spread.freedom
    else:
        (own,) = differences.values()
        freedom = len(own) - 1
        error = statistics.stdev(own) / math.sqrt(len(own)) if freedom else math.inf
    low = high = p = None
    if freedom and math.isfinite(error):
        half = _quantile(freedom, ALPHA) * error
        low, high, p = mean - half, mean + half, _p(mean - against, error, freedom)
    return PairedTest(
        row=row,
        other=other,
        where=where,
        against=against,
        lower_is_better=lower_is_better,
        tasks=len(means),
        pairs=sum(counts),
        units="tasks" if len(means) > 1 else "seeds",
        mean=mean,
        low=low,
        high=high,
        p=p,
        p_holm=p,
        chosen=chosen,
    )


def effect(test: PairedTest) -> str:
    """Return the effect, its interval, then p: `+0.52 [-0.10, +1.14], p 0.079`."""
    text = printed(test.mean, 2, "+")
    if test.low is None or test.high is None or test.p is None:
        return text
    return f"{text} [{printed(test.low, 2, '+')}, {printed(test.high, 2, '+')}], p {test.p:.2g}"


def corrected(tests: Sequence[PairedTest | None]) -> tuple[PairedTest | None, ...]:
    """Return the tests of one claim with Holm's correction for their number; those without p do not count."""
    able = sorted((test.p, place) for place, test in enumerate(tests) if test and test.p is not None)
    holm: dict[int, float] = {}
    largest = 0.0
    for done, (p, place) in enumerate(able):
        largest = max(largest, min(1.0, (len(able) - done) * p))
        holm[place] = largest
    return tuple(test and replace(test, p_holm=holm.get(place)) for place, test in enumerate(tests))


def _hierarchical_error(tasks: Sequence[Sequence[float]]) -> float:
    """Return the standard error of the mean over tasks when tasks, then seeds within each, are drawn anew.

    Choice: [tests of claims] the paper tests nothing. With infinitely many draws: the variance of the tasks'
    means, and the mean variance of those means over redrawn seeds. The first is the sample variance, which
    draws from so few tasks fall short of.
    """
    between = _squares([statistics.fmean(own) for own in tasks]) / (len(tasks) - 1)
    within = statistics.fmean(_squares(own) / len(own) ** 2 for own in tasks)
    return math.sqrt((between + within) / len(tasks))


def _squares(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return sum((value - mean) ** 2 for value in values)


@cache
def _quantile(freedom: int, alpha: float) -> float:
    """Return how many standard errors Student's t exceeds, to either side, with a chance of `alpha`."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - alpha / 2))


def _p(distance: float, error: float, freedom: int) -> float:
    """Return the chance of a mean so far off; differences that are all alike tell nothing of zero."""
    from scipy.special import stdtr

    if round(distance, 9) == 0:
        return 1.0
    return float(2 * stdtr(freedom, -abs(distance) / error)) if error else 0.0
