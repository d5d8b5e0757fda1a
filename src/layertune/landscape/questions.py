"""What a landscape answers: where a set lands among all, how much there is to gain, which layers matter.

Arithmetic on arrays of scores [sets, seeds]; nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
DRAWS = 1000  # of the bootstrap
LEVEL = 95.0  # per cent of them lie in an interval


@dataclass(frozen=True)
class Scores:
    """What every set of one size reached under every seed.

    Attributes:
        sets: layers from 1, in the order of `values`.
        seeds: in the order of its columns.
        values: [sets, seeds], fractions.
        right: [sets, seeds, rows], whether an evaluation row was answered rightly, where the score is the
            share of those; else None.
    """

    sets: tuple[tuple[int, ...], ...]
    seeds: tuple[int, ...]
    values: Array
    right: npt.NDArray[np.bool_] | None = None

    @property
    def means(self) -> Array:
        """Mean over the seeds, [sets]."""
        means: Array = self.values.mean(1)
        return means


def percentile_of(value: float, of_others: Array) -> float:
    """Return how many of the other sets lie below a value, in per cent; equals count half."""
    below, same = float((of_others < value).sum()), float((of_others == value).sum())
    return 100 * (below + same / 2) / len(of_others)


def percentile(scores: Scores, place: int) -> float:
    """Return the percentile of one set among all others, by the mean over seeds: 100 is the best of all."""
    means = scores.means.round(12)
    return percentile_of(float(means[place]), np.delete(means, place))


def interval(scores: Scores, place: int, drawn: Array) -> tuple[float, float]:
    """Return the interval of a set's percentile over bootstrap draws (`bootstrap`), [sets, draws]."""
    others = np.delete(drawn, place, axis=0)
    below, same = (others < drawn[place]).sum(0), (others == drawn[place]).sum(0)
    found = 100 * (below + same / 2) / len(others)
    low, high = np.percentile(found, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap(scores: Scores, draws: int = DRAWS, seed: int = 0) -> Array:
    """Draw seeds, and evaluation rows where their answers are known, anew; return mean scores [sets, draws].

    All sets of a draw have the same seeds and rows: what is hard for all moves no percentile.
    """
    rng = np.random.default_rng(seed)
    number = len(scores.seeds)
    seeds = rng.multinomial(number, np.full(number, 1 / number), draws) / number  # [draws, seeds]
    if scores.right is None:
        found: Array = scores.values @ seeds.T
    else:
        rows = scores.right.shape[2]
        weights = rng.multinomial(rows, np.full(rows, 1 / rows), draws) / rows  # [draws, rows]
        found = np.zeros((len(scores.sets), draws))
        for place in range(number):
            found += scores.right[:, place].astype(np.float64) @ weights.T * seeds[:, place]
    return found.round(12)


def regret(scores: Scores, place: int | None) -> float | None:
    """Return how much more the best set reaches than one set, or than the mean of all (None).

    The best is chosen on one seed and read on another, over all ordered pairs of seeds: the maximum of many
    noisy numbers, read where it was chosen, is too high. None with one seed.
    """
    pairs = list(permutations(range(len(scores.seeds)), 2))
    if not pairs:
        return None
    own = scores.values.mean(0) if place is None else scores.values[place]
    return float(
        np.mean([scores.values[scores.values[:, one].argmax(), other] - own[other] for one, other in pairs])
    )


@dataclass(frozen=True)
class Gain:
    """How much the choice of a set can matter, beside what a seed does.

    Attributes:
        sets: standard deviation of the sets' means over seeds.
        seeds: of one set over its seeds, pooled; None with one seed.
        real: of the sets' means, what seeds explain taken away; None with one seed.
        agreement: mean correlation of two seeds over the sets; None with one seed, or a constant one.
    """

    sets: float
    seeds: float | None
    real: float | None
    agreement: float | None


def gain(scores: Scores) -> Gain:
    """Return the spread over sets beside that over seeds."""
    means, number = scores.means, len(scores.seeds)
    sets = float(means.std(ddof=1))
    if number < 2:
        return Gain(sets, None, None, None)
    variance = float(scores.values.var(1, ddof=1).mean())
    real = max(0.0, sets**2 - variance / number) ** 0.5
    agreement = None
    if (scores.values.std(0) > 0).all():
        agreement = float(
            np.mean(
                [np.corrcoef(*scores.values.T[list(pair)])[0, 1] for pair in combinations(range(number), 2)]
            )
        )
    return Gain(sets, variance**0.5, real, agreement)


@dataclass(frozen=True)
class Additive:
    """A set's value as the sum of its layers' values.

    Attributes:
        effects: [L], what a layer adds beside an average one, as a fraction.
        share: of the variance over sets that the sum explains, adjusted for the number of layers.
    """

    effects: tuple[float, ...]
    share: float


def additive(scores: Scores, num_layers: int) -> Additive | None:
    """Fit the sum of layer values by least squares; None where too few sets, or equal ones, decide none."""
    means = scores.means
    size = len(scores.sets[0])
    present = np.zeros((len(means), num_layers))
    for row, layers in enumerate(scores.sets):
        present[row, [layer - 1 for layer in layers]] = 1
    free = len(means) - num_layers
    total = float(((means - means.mean()) ** 2).sum())
    if size == 1 or free < 1 or total == 0 or np.linalg.matrix_rank(present) < num_layers:
        return None
    values = np.linalg.lstsq(present, means, rcond=None)[0]
    rest = float(((means - present @ values) ** 2).sum())
    share = 1 - (rest / free) / (total / (len(means) - 1))
    return Additive(tuple(float(value) for value in values - values.mean()), share)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Spearman's correlation; None where a side is constant."""
    import pandas

    ranks = [pandas.Series(list(side)).rank().to_numpy() for side in (one, other)]
    if any(side.std() == 0 for side in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])
