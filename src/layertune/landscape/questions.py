"""What a landscape answers: where a rule lands, how much there is to gain, which layers matter.

Arithmetic on arrays of scores [sets, seeds]; nothing here reads a file. A rule is the places of the sets that
it takes with equal chance: one for most, all for `random_k`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from statistics import fmean

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
RESAMPLED = ("accuracy", "f1_macro")  # metrics that are known for rows drawn anew
DRAWS = 1000  # of the bootstrap
LEVEL = 95.0  # per cent of them lie in an interval


@dataclass(frozen=True)
class Scores:
    """What every set of one size reached under every seed."""

    sets: tuple[tuple[int, ...], ...]  # layers from 1
    seeds: tuple[int, ...]
    values: Array  # [sets, seeds], fractions
    metric: str = ""  # rows are drawn anew where it is one of RESAMPLED
    gold: Labels | None = None  # [rows], the labels of the evaluation rows
    answers: Labels | None = None  # [sets, seeds, rows], the predicted labels; None where they are not known

    @property
    def means(self) -> Array:
        """Mean over the seeds, [sets]."""
        means: Array = self.values.mean(1)
        return means


def percentiles(values: Array) -> Array:
    """Return how many per cent of the other sets lie below each, equals count half: [sets, ...] as given."""
    from scipy.stats import rankdata

    found: Array = 100 * (rankdata(values.round(12), axis=0) - 1) / (len(values) - 1)
    return found


def bootstrap(scores: Scores, draws: int = DRAWS, seed: int = 0) -> Array:
    """Draw seeds, and evaluation rows where their answers are known, anew; return percentiles [sets, draws].

    All sets of a draw have the same seeds and rows: what is hard for all moves no percentile.
    """
    rng = np.random.default_rng(seed)
    number = len(scores.seeds)
    seeds = rng.multinomial(number, np.full(number, 1 / number), draws) / number  # [draws, seeds]
    if scores.answers is None or scores.gold is None or scores.metric not in RESAMPLED:
        return percentiles(scores.values @ seeds.T)
    rows = len(scores.gold)
    weights = rng.multinomial(rows, np.full(rows, 1 / rows), draws) / rows  # [draws, rows]
    found = np.zeros((len(scores.sets), draws))
    for place in range(number):
        found += _of_rows(scores.metric, scores.answers[:, place], scores.gold, weights.T) * seeds[:, place]
    return percentiles(found)


def _of_rows(metric: str, answers: Labels, gold: Labels, weights: Array) -> Array:
    """Return a metric of answers [sets, rows] for weights of the rows [rows, draws], as [sets, draws]."""

    def weight(chosen: npt.NDArray[np.bool_]) -> Array:
        found: Array = chosen.astype(np.float64) @ weights
        return found

    if metric == "accuracy":
        return weight(answers == gold)
    sides = [(answers == label, gold == label) for label in np.union1d(gold, answers)]
    with np.errstate(invalid="ignore"):  # a label on neither side does not count
        parts = [2 * weight(one & other) / (weight(one) + weight(other)) for one, other in sides]
    mean: Array = np.nanmean(parts, axis=0)
    return mean


def interval(drawn: Array, places: Sequence[int]) -> tuple[float, float]:
    """Return the interval of a rule's percentile over the draws of `bootstrap`."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(drawn[list(places)].mean(0), [tail, 100 - tail])
    return float(low), float(high)


def regret(scores: Scores, places: Sequence[int]) -> float | None:
    """Return how much more the best set reaches than a rule.

    The best is chosen on one seed and read on another, over all ordered pairs of seeds: the maximum of many
    noisy numbers, read where it was chosen, is too high. None with one seed.
    """
    own = scores.values[list(places)].mean(0)
    best = scores.values.argmax(0)
    pairs = list(permutations(range(len(scores.seeds)), 2))
    return fmean(scores.values[best[one], other] - own[other] for one, other in pairs) if pairs else None


@dataclass(frozen=True)
class Gain:
    """How much the choice of a set can matter beside what a seed does; of one seed only `sets` is known."""

    sets: float  # standard deviation of the sets' means over seeds
    seeds: float | None = None  # of one set over its seeds, pooled
    real: float | None = None  # of the sets' means, what seeds explain taken away
    agreement: float | None = None  # mean correlation of two seeds over the sets; None of a constant one


def gain(scores: Scores) -> Gain:
    """Return the spread over sets beside that over seeds."""
    sets, number = float(scores.means.std(ddof=1)), len(scores.seeds)
    if number < 2:
        return Gain(sets)
    variance = float(scores.values.var(1, ddof=1).mean())
    real = max(0.0, sets**2 - variance / number) ** 0.5
    agreement = None
    if (scores.values.std(0) > 0).all():
        pairs = combinations(scores.values.T, 2)
        agreement = fmean(float(np.corrcoef(one, other)[0, 1]) for one, other in pairs)
    return Gain(sets, variance**0.5, real, agreement)


@dataclass(frozen=True)
class Additive:
    """A set's value as the sum of its layers' values."""

    effects: tuple[float, ...]  # [L], what a layer adds beside an average one, as a fraction
    share: float  # of the variance over sets that the sum explains, adjusted for the number of layers


def additive(scores: Scores, num_layers: int) -> Additive | None:
    """Fit the sum of layer values by least squares; None where too few sets, or equal ones, decide none."""
    means = scores.means
    present = np.array(
        [[layer in layers for layer in range(1, num_layers + 1)] for layers in scores.sets], float
    )
    free = len(means) - num_layers
    total = float(((means - means.mean()) ** 2).sum())
    if free < 1 or total == 0 or np.linalg.matrix_rank(present) < num_layers:
        return None
    values = np.linalg.lstsq(present, means, rcond=None)[0]
    rest = float(((means - present @ values) ** 2).sum())
    share = 1 - (rest / free) / (total / (len(means) - 1))
    return Additive(tuple(map(float, values - values.mean())), share)
