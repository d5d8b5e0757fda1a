"""The best epoch on the in-domain evaluation split (read-out `best`).

Choice: [which epoch] the released code takes the best one; the last one, fixed in advance, is the headline.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layertune.config import TaskSpec
from layertune.models.parameters import put_values, values_of
from layertune.records.record import Scores

if TYPE_CHECKING:
    from layertune.models import TaskModel


class BestEpoch:
    """Remember the epoch of the highest score; the earliest of equals.

    Args:
        task: names the metric that decides (`best_by`, else `metric`).
        keep_weights: also keep the trained weights of that epoch, for splits that are scored at the end.

    Attributes:
        epoch: the best so far; None before the first.
        kept: the weights of its trained parameters, by name.
        rest: its scores on those splits, where they had to be taken at once, because the method discards the
            model of each epoch (RECAP).
        apart: the structure and the weights of such a model, where it is to be saved.
    """

    def __init__(self, task: TaskSpec, keep_weights: bool) -> None:
        self.task, self.keep_weights = task, keep_weights
        self.epoch: int | None = None
        self.score = float("-inf")
        self.metrics: dict[str, Scores] = {}
        self.kept: dict[str, Tensor] = {}
        self.rest: dict[str, Scores] | None = None
        self.apart: tuple[Any, dict[str, Tensor]] | None = None

    def offer(self, epoch: int, metrics: dict[str, Scores], model: TaskModel, names: Collection[str]) -> bool:
        """Take an epoch if it is better than all before; return whether it is.

        Args:
            epoch: counted from 1.
            metrics: split -> metric -> value; the first split decides.
            model: the model of the run.
            names: its parameters that training may change.
        """
        found = next(iter(metrics.values()))[self.task.best_by or self.task.metric]
        score = found if isinstance(found, float) else float("-inf")
        if self.epoch is not None and score <= self.score:
            return False
        self.epoch, self.metrics, self.score = epoch, metrics, score
        self.rest = self.apart = None
        if self.keep_weights:
            self.kept = copies(model, names)
        return True

    @contextmanager
    def weights(self, model: TaskModel) -> Iterator[None]:
        """Put the best epoch's weights into the model for the length of the block."""
        current = copies(model, self.kept)
        put_values(model, self.kept)
        try:
            yield
        finally:
            put_values(model, current)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        names = ("epoch", "score", "metrics", "kept", "rest", "apart")
        return {name: getattr(self, name) for name in names}

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint.

        Where the interrupted run kept the weights of the best epoch, this one does too, even if it does not
        ask for them: else those it was given would soon be those of an epoch that is no longer the best.
        """
        for name, value in state.items():
            setattr(self, name, value)
        self.keep_weights = self.keep_weights or bool(self.kept)


def copies(model: TaskModel, names: Collection[str]) -> dict[str, Tensor]:
    """Return copies of the values of some parameters by name, on the CPU."""
    return {name: value.clone() for name, value in values_of(model, names).items()}
