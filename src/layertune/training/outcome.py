"""What training did and cost: the loop's report to the record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from layertune.evaluation.evaluate import Scores
from layertune.records.record import CacheRecord
from layertune.training.witness import PhaseReport


@dataclass(frozen=True)
class TrainOutcome:
    """What training did and cost; `seconds` are those of the steps alone.

    Attributes:
        history: one entry per epoch: epoch, steps, loss, seconds, metrics.
        step_seconds: of each step, as the device spent them: CPU seconds, or between events on a CUDA device.
        last: task -> metric -> value after the last epoch; `best` the same at the best epoch, and which.
        epochs: how many were asked for, as the method reads the configuration.
        phases: what was seen of each phase.
        facts: what the method found out in training.
        cache: the frozen-prefix cache, and what it cost.
    """

    history: tuple[dict[str, Any], ...]
    last: dict[str, Scores]
    best: dict[str, Any]
    seconds: float
    cpu_seconds: float
    seconds_per_step_median: float | None
    step_seconds: tuple[float, ...]
    peak_memory_bytes: int
    steps: int
    examples_per_second: float
    tokens_per_second: float
    loss_finite: bool
    epochs: int
    phases: tuple[PhaseReport, ...]
    facts: dict[str, Any]
    cache: CacheRecord = field(default_factory=CacheRecord)

    @property
    def read_epochs(self) -> tuple[int, ...]:
        """The epochs of the two read-outs; none where nothing was evaluated."""
        if not self.last:
            return ()
        return tuple(sorted({self.history[-1]["epoch"], self.best.get("epoch", self.history[-1]["epoch"])}))
