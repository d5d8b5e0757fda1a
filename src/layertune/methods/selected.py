"""The paper's method and every method that chooses k layers: score, select, freeze (§3, Algorithm 1).

High and low scoring, block-wise, I/O similarity, random, top, bottom and the ablations differ in two names of
their YAML.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

from layertune.config import ConfigError, RunConfig
from layertune.config.names import resolve_name
from layertune.methods.base import Method, Preparation, head_parts, train_only
from layertune.scoring import SCORERS
from layertune.scoring.cached import cached_scores
from layertune.selection import SELECTORS

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.scoring import LayerScores
    from layertune.tasks import TaskData
    from layertune.training.runtime import Runtime

log = logging.getLogger(__name__)


class SelectedLayers(Method):
    """Score the layers, select k of them, freeze the rest; the head always trains.

    Raises:
        ConfigError: the scorer or the selector is unknown, or the selector or k is missing.
    """

    def __init__(self, run: RunConfig) -> None:
        super().__init__(run)
        if self.spec.selector is None or self.spec.k is None:
            raise ConfigError(f"method={self.spec.name} names no selector or no k.")
        self.k = self.spec.k
        self.selector = resolve_name(self.spec.selector, SELECTORS, "method.selector")
        if self.spec.scorer is not None:
            resolve_name(self.spec.scorer, SCORERS, "method.scorer")  # a misspelt name ends the run here

    def prepare(self, model: TaskModel, data: TaskData, runtime: Runtime) -> Preparation:
        """Score, select and freeze."""
        scores, reused = self.score(model, data, runtime)
        layers = self.select(model.backbone.num_layers, scores)
        log.info(
            "%s: layers %s of %d", self.spec.name, ", ".join(map(str, layers)), model.backbone.num_layers
        )
        parts = [model.backbone.layers[layer - 1] for layer in layers]
        return Preparation(
            expected_trainable=train_only(
                model, [*parts, *head_parts(model, self.run.model.train_final_norm)]
            ),
            layers=layers,
            scores=scores,
            reused=reused,
        )

    def score(self, model: TaskModel, data: TaskData, runtime: Runtime) -> tuple[LayerScores | None, bool]:
        """Return the layer scores and whether they came from disk; (None, False) without a scorer."""
        if self.spec.scorer is None:
            return None, False
        return cached_scores(self.run, model, data, runtime.device)

    def select(self, num_layers: int, scores: LayerScores | None) -> tuple[int, ...]:
        """Return the chosen layers, 1-based and ascending; random ones draw from the run's seed alone."""
        values = None if scores is None else scores.values
        return self.selector(num_layers, self.k, values, random.Random(self.run.seed))
