"""The best epoch on the in-domain evaluation split (read-out `best`).

Choice: [which epoch] the released code takes the best one; the last one, fixed in advance, is the headline.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layertune.config import TaskSpec
from layertune.records.record import Scores

if TYPE_CHECKING:
    from layertune.models import TaskModel


class BestEpoch:
    """Remember the epoch of the highest score; the earliest of equals.

    Args:
        task: names the metric that decides (`best_by`, else `metric`).
        keep_weights: also keep the trained weights of that epoch, for splits that are scored at the end.

    Attributes:
        rest: scores on those splits, set right after the epoch where the method discards its model (RECAP).
        apart: the structure and the weights of such a model, set where it is to be saved.
    """

    def __init__(self, task: TaskSpec, keep_weights: bool) -> None:
        self.task, self.keep_weights = task, keep_weights
        self.epoch: int | None = None
        self.metrics: dict[str, Scores] = {}
        self.rest: dict[str, Scores] | None = None
        self.apart: tuple[Any, dict[str, Tensor]] | None = None
        self._score = float("-inf")
        self._weights: dict[str, Tensor] = {}

    def offer(
        self,
        epoch: int,
        metrics: dict[str, Scores],
        model: TaskModel,
        names: Collection[str] | None = None,
    ) -> bool:
        """Take an epoch if it is better than all before; return whether it is.

        Args:
            epoch: counted from 1.
            metrics: split -> metric -> value; the first split decides.
            model: the model of the run.
            names: its parameters that training may change; None = those that require a gradient now.
        """
        found = next(iter(metrics.values()))[self.task.best_by or self.task.metric]
        score = found if isinstance(found, float) else float("-inf")
        if self.epoch is not None and score <= self._score:
            return False
        self.epoch, self.metrics, self._score = epoch, metrics, score
        self.rest = self.apart = None
        if self.keep_weights:
            if names is None:
                names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
            self._weights = copies(model, names)
        return True

    @property
    def kept(self) -> dict[str, Tensor]:
        """The trained weights of the best epoch, by name."""
        return self._weights

    @contextmanager
    def weights(self, model: TaskModel) -> Iterator[None]:
        """Put the best epoch's weights into the model for the length of the block."""
        current = copies(model, self._weights)
        put(model, self._weights)
        try:
            yield
        finally:
            put(model, current)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        names = ("epoch", "metrics", "rest", "apart", "_score", "_weights")
        return {name: getattr(self, name) for name in names}

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)
        # what goes on from a checkpoint with weights keeps them too, or they would be an older epoch's
        self.keep_weights = self.keep_weights or bool(self._weights)


def copies(model: TaskModel, names: Collection[str]) -> dict[str, Tensor]:
    """Return the values of some parameters by name, on the CPU."""
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters() if name in names}


@torch.no_grad()
def put(model: TaskModel, weights: Mapping[str, Tensor]) -> None:
    """Put values into parameters by name."""
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)
