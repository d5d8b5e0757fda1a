"""The plain step of `train=published`; `layertune.fast` has the other one, with the same methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layertune.config import RunConfig
from layertune.records.record import CacheRecord
from layertune.runtime import Runtime
from layertune.tasks import Batch, TaskData

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.training.phases import Phases


class PlainStepper:
    """The whole model, forward and backward, on the tokens of a batch.

    Attributes:
        cost: of a cache: none.
        graphs: whether steps were captured: nothing is said.
    """

    graphs: str | None = None

    def __init__(self, run: RunConfig, data: TaskData, runtime: Runtime) -> None:
        self.store, self.runtime, self.cost = data.train.store, runtime, CacheRecord()

    def follow(self, phases: Phases, new_epoch: bool = False) -> None:
        """Take up the model of the phase in progress."""
        self.model = phases.trained

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the examples at these row numbers."""
        return self.store.batch(rows, self.runtime.multiple)

    def gradient(self, batch: Batch, share: float) -> Tensor:
        """Run forward and backward on a batch; return its share of the loss, still there."""
        return self.runtime.gradient(self.model, batch.to(self.runtime.device), share)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: nothing."""
        return {}

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""

    def close(self, model: TaskModel) -> None:
        """Leave the model as it was before training: as it is."""
