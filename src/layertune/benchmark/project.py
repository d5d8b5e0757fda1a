"""From measured steps to the cost of a whole training: pure arithmetic, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import numpy as np

WIDEST = 0.2  # of a ratio whose rounds differ by more both ends are printed
WALL = "wall clock"  # what a CUDA device is measured by
PADDED = 3  # steps of an arm that pads to the maximum, of which the shortest stands for all


@dataclass(frozen=True)
class Curve:
    """Seconds of a batch by its padded width, from some that were measured.

    seconds = once + per token of width + per square of it (attention), none of them negative, by least
    squares of the relative errors: every measured batch counts at every width.

    Attributes:
        widths: measured ones, in any order.
        seconds: of each.
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
    def parts(self) -> tuple[float, ...]:
        """Seconds once, per token and per its square; fewer where fewer widths were measured."""
        powers = np.arange(min(3, len(set(self.widths))))
        return _fitted(np.power.outer(np.array(self.widths, np.float64), powers), self.seconds)

    def at(self, widths: np.ndarray) -> np.ndarray:
        """Return the seconds of batches of these widths."""
        powers = np.arange(len(self.parts))
        return np.asarray(np.power.outer(np.asarray(widths, np.float64), powers) @ np.array(self.parts))

    def total(self, widths: np.ndarray, scale: float = 1.0) -> float:
        """Return the seconds of all batches of these widths, times `scale`."""
        return float(self.at(widths).sum()) * scale


@dataclass(frozen=True)
class Round:
    """One round of one arm.

    Attributes:
        step: of an optimiser step.
        select: of a batch of the pass that scores all examples; None where none is made.
        select_few: task -> seconds of the whole selection where few examples decide.
        examples: task -> how many those were.
        cache: of a batch of the cache's own pass.
    """

    step: Curve
    select: Curve | None = None
    select_few: dict[str, float] | None = None
    examples: dict[str, int] | None = None
    cache: Curve | None = None


@dataclass(frozen=True)
class Epoch:
    """What a task asks of an arm: padded widths of the batches of an epoch, and of a pass over all examples.

    Attributes:
        task: its name.
        steps: width of each batch, as the arm orders them.
        passes: the same of a pass in which examples are sorted by length.
        share: by how much there are more examples than lengths.
    """

    task: str
    steps: np.ndarray
    passes: np.ndarray
    share: float = 1.0


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
    return Cost(
        *(median(getattr(cost, part) for cost in costs) for part in ("selection", "cache", "training"))
    )


def ratio(base: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return the median ratio of two arms over their rounds, and (largest - smallest) / median."""
    ratios = [first / second for first, second in zip(base, other, strict=True)]
    middle = median(ratios)
    return middle, (max(ratios) - min(ratios)) / middle


def ends(ratio: float, spread: float) -> tuple[float, float]:
    """Return the least and the largest ratio of two rounds; of more rounds, the median and half their range
    to both sides.
    """
    return ratio * (1 - spread / 2), ratio * (1 + spread / 2)


def growth_of(trainings: Sequence[tuple[int, int, float]]) -> tuple[float, float, float, float]:
    """Fit seconds = once + per example + per example and epoch to trainings, as `Curve` fits batches.

    Args:
        trainings: examples, epochs and seconds of each.

    Returns:
        The three, and the largest deviation of a training from them, as a share of its seconds.
    """
    shape = np.array([[1.0, examples, examples * epochs] for examples, epochs, _ in trainings])
    seconds = [measured for *_, measured in trainings]
    once, example, epoch = found = _fitted(shape, seconds)
    return once, example, epoch, float(np.abs(shape @ found / seconds - 1).max())


def _fitted(shape: np.ndarray, seconds: Sequence[float]) -> tuple[float, ...]:
    """Return what each column of `shape` (one row per measurement) costs: none negative, by least squares of
    the relative errors.
    """
    from scipy.optimize import nnls

    found, _ = nnls(shape / np.array(seconds)[:, None], np.ones(len(seconds)))
    return tuple(float(part) for part in found)
