"""What the loop returns: what training did and cost, and the model that may be saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layertune.records.record import MetricsRecord, Scores, TrainingRecord
from layertune.training.proof import PhaseReport

if TYPE_CHECKING:
    from layertune.models import TaskModel


@dataclass(frozen=True)
class Evaluated:
    """The model as the evaluation of one epoch saw it. It is saved where a run says `save=<folder>`.

    Attributes:
        epoch: the epoch.
        model: the model, whose parameters may have changed since that epoch.
        structure: how the model is built, where it is another than the method prepared (RECAP); else None.
        weights: by name, the values that parameters had in that epoch, where they have changed since; on the
            CPU.
        one_token_last: the last layer was run for the representative token alone.
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
        last: data set -> metric -> value after the last epoch.
        best: the same at the best epoch, and under `epoch` which one that was.
        step_seconds: of each step: CPU seconds, or on a CUDA device the seconds between two of its events.
        loss_finite: the loss of the last epoch is a finite number.
        phases: what was seen of each phase.
        facts: what the method found out while it trained.
        evaluated: the model to save; None where none is to be saved.
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
        """The epochs of the two read-outs, the last and the best; none where nothing was evaluated."""
        if not self.last:
            return ()
        return tuple(sorted({self.history[-1]["epoch"], self.best.get("epoch", self.history[-1]["epoch"])}))

    def metrics(self, outputs: Mapping[str, str | None] | None) -> MetricsRecord | None:
        """Return the two read-outs for the record; None where nothing was evaluated.

        Args:
            outputs: generation: the files that hold the outputs which were scored -> their sha256.
        """
        if not self.last:
            return None
        return MetricsRecord(self.last, self.best or None, None if outputs is None else dict(outputs))

    def record(self) -> TrainingRecord:
        """Return the part that the record keeps."""
        return TrainingRecord(**{field.name: getattr(self, field.name) for field in fields(TrainingRecord)})
