"""What training did and cost: the loop's report to the record."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from layertune.evaluation.evaluate import Scores
from layertune.records.record import TrainingRecord
from layertune.training.witness import PhaseReport


@dataclass(frozen=True, kw_only=True)
class TrainOutcome(TrainingRecord):
    """What the record keeps of a training, and what else the loop saw.

    Attributes:
        last: task -> metric -> value after the last epoch; `best` the same at the best epoch, and which.
        step_seconds: of each step, as the device spent them: CPU seconds, or between events on a CUDA device.
        phases: what was seen of each phase.
        facts: what the method found out in training.
    """

    last: dict[str, Scores]
    best: dict[str, Any]
    step_seconds: tuple[float, ...]
    loss_finite: bool
    phases: tuple[PhaseReport, ...]
    facts: dict[str, Any]

    @property
    def read_epochs(self) -> tuple[int, ...]:
        """The epochs of the two read-outs; none where nothing was evaluated."""
        if not self.last:
            return ()
        return tuple(sorted({self.history[-1]["epoch"], self.best.get("epoch", self.history[-1]["epoch"])}))

    def record(self) -> TrainingRecord:
        """Return what the record keeps."""
        return TrainingRecord(**{field.name: getattr(self, field.name) for field in fields(TrainingRecord)})
