"""From measured steps to the cost of a whole training: pure arithmetic, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

WIDEST = 0.2  # of a ratio whose rounds differ by more both ends are printed
PADDED = 3  # steps of an arm that pads to the maximum, of which the shortest stands for all
# the others are compared with these: with the last where they are not in fp32 themselves
BASE, PADDING, LORA, USER = "trainer_full", "trainer_full_padded", "trainer_lora", "trainer_full_fp32"


@dataclass(frozen=True)
class Curve:
    """Seconds of a batch by its padded width, from some that were measured, in any order.

    seconds = once + per token of width + per square of it (attention), none of them negative, by least
    squares of the relative errors: every measured batch counts at every width.
    """

    widths: tuple[int, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.widths or len(self.widths) != len(self.seconds):
            raise ValueError(f"{len(self.widths)} widths and {len(self.seconds)} measurements")

    def __add__(self, other: Curve) -> Curve:
        """Return the curve of the batches of both."""
        return Curve(self.widths + other.widths, self.seconds + other.seconds)

    @cached_property
    def parts(self) -> np.ndarray:
        """Seconds once, per token and per its square; fewer where fewer widths were measured."""
        return _fitted(self._powers(np.array(self.widths), min(3, len(set(self.widths)))), self.seconds)

    def at(self, widths: np.ndarray) -> np.ndarray:
        """Return the seconds of batches of these widths."""
        return np.asarray(self._powers(widths, len(self.parts)) @ self.parts)

    def total(self, widths: np.ndarray, scale: float = 1.0) -> float:
        """Return the seconds of all batches of these widths, times `scale`."""
        return float(self.at(widths).sum()) * scale

    @staticmethod
    def _powers(widths: np.ndarray, count: int) -> np.ndarray:
        return np.vander(widths.astype(np.float64), count, increasing=True)


@dataclass(frozen=True)
class Round:
    """One round of one arm."""

    step: Curve  # of an optimiser step
    select: Curve | None = None  # of a batch of the pass that scores all examples
    select_few: dict[str, float] | None = None  # task -> seconds of the selection where few examples decide
    examples: dict[str, int] | None = None  # task -> how many those were
    cache: Curve | None = None  # of a batch of the cache's own pass


@dataclass(frozen=True)
class Epoch:
    """What a task asks of an arm."""

    task: str
    steps: np.ndarray  # padded width of each batch, as the arm orders them
    passes: np.ndarray  # the same of a pass over all examples, sorted by length
    share: float = 1.0  # how many examples there are for each length that is known


@dataclass(frozen=True)
class Cost:
    """Seconds of a whole training, by part."""

    selection: float
    cache: float
    training: float

    @property
    def total(self) -> float:
        """Everything but evaluation."""
        return self.selection + self.cache + self.training


def projected(measured: Round, epoch: Epoch, epochs: int) -> Cost:
    """Return the cost of a whole training."""
    selection = (measured.select_few or {}).get(epoch.task, 0.0)
    if measured.select is not None:
        selection += measured.select.total(epoch.passes, epoch.share)
    return Cost(
        selection=selection,
        cache=0.0 if measured.cache is None else measured.cache.total(epoch.passes, epoch.share),
        training=measured.step.total(epoch.steps, epoch.share * epochs),
    )


def median_cost(costs: Sequence[Cost]) -> Cost:
    """Return the medians of the parts over rounds."""
    return Cost(*map(float, np.median([list(asdict(cost).values()) for cost in costs], axis=0)))


def ratio(base: Sequence[float], other: Sequence[float]) -> tuple[float, float | None]:
    """Return the median ratio of two arms over their rounds, and (largest - smallest) / median; an arm that
    was measured once stands beside each round of the other, and of two such arms there is no spread.
    """
    ratios = np.divide(base, other)
    middle = float(np.median(ratios))
    return middle, float(np.ptp(ratios)) / middle if len(ratios) > 1 else None


def ends(ratio: float, spread: float) -> tuple[float, float]:
    """Return the least and the largest ratio of two rounds; of more rounds, the median and half their range
    to both sides.
    """
    return ratio * (1 - spread / 2), ratio * (1 + spread / 2)


def growth_of(trainings: Sequence[tuple[int, int, float]]) -> tuple[float, float, float, float]:
    """Fit seconds = once + per example + per example and epoch to trainings (examples, epochs, seconds), as
    `Curve` fits batches; return the three, and the largest deviation from them as a share of a training.
    """
    examples, epochs, seconds = np.array(trainings, np.float64).T
    shape = np.stack([np.ones_like(examples), examples, examples * epochs], axis=1)
    found = _fitted(shape, seconds)
    once, example, epoch = map(float, found)
    return once, example, epoch, float(np.abs(shape @ found / seconds - 1).max())


def _fitted(shape: np.ndarray, seconds: Sequence[float]) -> np.ndarray:
    """Return what each column of `shape` (one row per measurement) costs: none negative, by least squares of
    the relative errors.
    """
    from scipy.optimize import nnls  # not on every machine whose steps alone are measured

    found, _ = nnls(shape / np.array(seconds)[:, None], np.ones(len(seconds)))
    return np.asarray(found)
