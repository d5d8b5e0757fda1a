"""What training did and cost: the loop's report to the record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layertune.records.record import MetricsRecord, Scores, TrainingRecord
from layertune.training.witness import PhaseReport

if TYPE_CHECKING:
    from layertune.models import TaskModel


@dataclass(frozen=True)
class Evaluated:
    """The model that the evaluation of one epoch saw: what is kept where a run says `save=<folder>`.

    Attributes:
        epoch: which one.
        model: it, but for `weights`.
        structure: how it is built, where it is another than the method prepared (RECAP).
        weights: values of its parameters in that epoch, where they have changed since; on the CPU.
        one_token_last: its last layer ran for the representative token alone.
    """

    epoch: int
    model: TaskModel
    structure: Any
    weights: Mapping[str, Tensor]
    one_token_last: bool


@dataclass(frozen=True, kw_only=True)
class TrainOutcome(TrainingRecord):
    """What the record keeps of a training, and what else the loop saw.

    Attributes:
        last: task -> metric -> value after the last epoch; `best` the same at the best epoch, and which.
        step_seconds: of each step, as the device spent them: CPU seconds, or between events on a CUDA device.
        phases: what was seen of each phase.
        facts: what the method found out in training.
        evaluated: the model that is kept; None where none is.
    """

    last: dict[str, Scores]
    best: dict[str, Any]
    step_seconds: tuple[float, ...]
    loss_finite: bool
    phases: tuple[PhaseReport, ...]
    facts: dict[str, Any]
    evaluated: Evaluated | None = None

    @property
    def read_epochs(self) -> tuple[int, ...]:
        """The epochs of the two read-outs; none where nothing was evaluated."""
        if not self.last:
            return ()
        return tuple(sorted({self.history[-1]["epoch"], self.best.get("epoch", self.history[-1]["epoch"])}))

    def metrics(self, outputs: Mapping[str, str | None] | None) -> MetricsRecord | None:
        """Return both read-outs for the record, with the files of outputs behind them; None for none."""
        if not self.last:
            return None
        return MetricsRecord(self.last, self.best or None, None if outputs is None else dict(outputs))

    def record(self) -> TrainingRecord:
        """Return what the record keeps."""
        return TrainingRecord(**{field.name: getattr(self, field.name) for field in fields(TrainingRecord)})
