"""The paper's method and every method that chooses k layers: score, select, freeze (§3, Algorithm 1).

High and low scoring, block-wise, I/O similarity, random, top, bottom and the ablations differ in two names of
their YAML. `NamedLayers` trains the layers that one names.
"""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

from layertune.config import RunConfig
from layertune.config.names import resolve_name
from layertune.errors import ConfigError
from layertune.methods.base import Method, Preparation, head_parts, train_only
from layertune.scoring import SCORERS
from layertune.scoring.cached import cached_scores
from layertune.selection import SELECTORS

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.runtime import Runtime
    from layertune.scoring import LayerScores
    from layertune.tasks import TaskData

log = logging.getLogger(__name__)


def _train_layers(
    model: TaskModel,
    layers: tuple[int, ...],
    run: RunConfig,
    scores: LayerScores | None = None,
    reused: bool = False,
) -> Preparation:
    """Freeze everything but these layers (1-based) and the head."""
    log.info("%s: layers %s of %d", run.method.name, ", ".join(map(str, layers)), model.backbone.num_layers)
    parts = [model.backbone.layers[layer - 1] for layer in layers]
    trainable = train_only(model, [*parts, *head_parts(model, run.model.train_final_norm)])
    return Preparation(expected_trainable=trainable, layers=layers, scores=scores, reused=reused)


class NamedLayers(Method):
    """Train the layers that `method.layers` names, 1-based, and the head.

    Raises:
        ConfigError: no layer is named, one is named twice, or one does not exist.
    """

    def __init__(self, run: RunConfig) -> None:
        super().__init__(run)
        named = self.option("layers", tuple[int, ...]) or ()
        self.layers = tuple(sorted(set(named)))
        if (
            not named
            or len(self.layers) != len(named)
            or not 1 <= self.layers[0] <= self.layers[-1] <= run.model.num_layers
        ):
            raise ConfigError(
                f"method.layers={list(named)} is not allowed: it lists different layers from 1 (next to the "
                f"embeddings) to {run.model.num_layers}, for example method.layers=[{run.model.num_layers}]."
            )

    def prepare(self, model: TaskModel, data: TaskData, runtime: Runtime) -> Preparation:
        """Freeze everything but the named layers and the head."""
        return _train_layers(model, self.layers, self.run)


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
        return _train_layers(model, layers, self.run, scores, reused)

    def score(self, model: TaskModel, data: TaskData, runtime: Runtime) -> tuple[LayerScores | None, bool]:
        """Return the layer scores and whether they came from disk; (None, False) without a scorer."""
        if self.spec.scorer is None:
            return None, False
        return cached_scores(self.run, model, data, runtime.device)

    def select(self, num_layers: int, scores: LayerScores | None) -> tuple[int, ...]:
        """Return the chosen layers, 1-based and ascending; random ones draw from the run's seed alone."""
        values = None if scores is None else scores.values
        return self.selector(num_layers, self.k, values, random.Random(self.run.seed))
