"""Layer selection for those who stay with the library's `Trainer`: a callback that scores and freezes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from transformers import TrainerCallback

from layertune.api import freeze_all_but, score_layers, select_layers
from layertune.errors import ConfigError
from layertune.scoring import LayerScores
from layertune.tasks.given import READ

log = logging.getLogger(__name__)


class LayerSelection(TrainerCallback):
    """Choose k layers by the training rows when training begins, and freeze the rest but for the head.

    Args:
        k: how many layers.
        strategy: as in `select_layers`: low_k, high_k, block_low, random_k, …
        layers: train these, counted from 1, instead of choosing.
        scorer: as in `score_layers`.
        batches: score on so many batches at most; None reads all, as the paper does.
        seed: of the random strategies.

    Attributes:
        chosen: the layers, once training has begun; `scores` and `trained_parameters` likewise.
    """

    def __init__(
        self,
        k: int = 3,
        strategy: str = "low_k",
        *,
        layers: Sequence[int] | None = None,
        scorer: str = "cosine",
        batches: int | None = None,
        seed: int = 0,
    ) -> None:
        self.k, self.strategy, self.scorer, self.batches, self.seed = k, strategy, scorer, batches, seed
        self.layers = layers
        self.chosen: tuple[int, ...] | None = None
        self.scores: LayerScores | None = None
        self.trained_parameters: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score, select, freeze; what is frozen gets no gradient, whatever the optimiser holds.

        Raises:
            ConfigError: the layers cannot be scored or chosen.
        """
        model, loader = kwargs["model"], kwargs.get("train_dataloader")
        model = getattr(model, "module", model)
        if self.layers is not None:
            self.chosen = tuple(sorted(self.layers))
        else:
            if loader is None:
                raise ConfigError("LayerSelection needs the training rows, and this Trainer has none.")
            with torch.random.fork_rng():  # the order of training is the one without this callback
                self.scores = score_layers(model, self._batches(loader), self.scorer)
            self.chosen = select_layers(self.scores, self.k, self.strategy, self.seed)
        self.trained_parameters = freeze_all_but(model, self.chosen)
        log.info("training layers %s: %s parameters", self.chosen, f"{self.trained_parameters:,}")

    def _batches(self, loader: Any) -> Iterator[Mapping[str, Any]]:
        for batch in islice(loader, self.batches):
            yield {key: batch[key] for key in READ if key in batch}
