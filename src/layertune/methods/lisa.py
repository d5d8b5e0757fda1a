"""LISA (Pan et al. 2024, arXiv 2403.17919): every few steps a few layers are drawn; only these train.

After `lisa_trainer.py` of OptimalScale/LMFlow: embeddings, final norm and head always train, and a layer's
Adam state waits for its next turn.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from layertune.config import RunConfig
from layertune.config.schema import Count
from layertune.errors import ConfigError
from layertune.methods.base import Method, Preparation, head_parts, train_all, train_only

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.runtime import Runtime
    from layertune.tasks import TaskData


class Lisa(Method):
    """Train `layers` layers, drawn uniformly without replacement anew every `every` steps.

    The draws follow from the run's seed and the number of the interval alone, so that a resumed run needs no
    saved generator. `freeze_embeddings` leaves everything outside the layers frozen but the task head, as the
    methods that select k layers do; then the backward pass ends at the lowest layer drawn.

    Raises:
        ConfigError: `layers` or `every` is out of range.
    """

    def __init__(self, run: RunConfig) -> None:
        super().__init__(run)
        self.layers: int = self.spec.options["layers"]
        self.every: int = self.value("every", Count)
        self.interval: int | None = None
        num_layers = run.model.num_layers
        if not 1 <= self.layers <= num_layers:
            raise ConfigError(
                f"method.layers={self.layers} is out of range: {run.model.name} has {num_layers} layers."
            )

    def prepare(self, model: TaskModel, data: TaskData, runtime: Runtime) -> Preparation:
        """Unfreeze all that may ever train: the optimiser holds it from the first step."""
        if self.spec.options.get("freeze_embeddings"):
            head = head_parts(model, self.run.model.train_final_norm)
            return Preparation(expected_trainable=train_only(model, [*model.backbone.layers, *head]))
        return Preparation(train_all(model))

    def before_step(self, model: TaskModel, step: int) -> None:
        """Draw layers at the first step of every interval, and freeze the others."""
        interval = (step - 1) // self.every
        if interval == self.interval:
            return
        self.interval = interval
        drawn = self.draw(interval)
        for number, layer in enumerate(model.backbone.layers, start=1):
            layer.requires_grad_(number in drawn)

    def draw(self, interval: int) -> tuple[int, ...]:
        """Return the layers of an interval (counted from 0), 1-based and ascending."""
        rng = random.Random(f"lisa {self.run.seed} {interval}")
        return tuple(sorted(rng.sample(range(1, self.run.model.num_layers + 1), self.layers)))
