"""From measured steps to the cost of a whole training: pure arithmetic, no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

WIDEST = 0.2  # a ratio whose rounds differ by more is not printed


@dataclass(frozen=True)
class Round:
    """One round of one arm: means over its steps, and what comes before training, per example.

    Attributes:
        step_seconds: of one optimiser step.
        selection_seconds: of the whole selection where it reads a fixed number of examples.
        selection_per_example: where it reads all.
        cache_per_example: of the cache's own pass.
    """

    step_seconds: float
    selection_seconds: float = 0.0
    selection_per_example: float = 0.0
    cache_per_example: float = 0.0


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


def projected(measured: Round, examples: int, batch_size: int, epochs: int) -> Cost:
    """Return the cost of training on so many examples for so many epochs."""
    steps = math.ceil(examples / batch_size) * epochs
    return Cost(
        selection=measured.selection_seconds + measured.selection_per_example * examples,
        cache=measured.cache_per_example * examples,
        training=measured.step_seconds * steps,
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
