"""Adaptive scoring: read as many examples as decide which layers are chosen (`scoring.examples=adaptive`).

The scores of two layers are means over the same examples, so their difference has a tiny spread. Choice:
[adaptive scoring (`train=fast`)] they are read in one random order, 32 at a time, until every gap that
decides the set exceeds 4 of its standard errors.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layertune.scoring.layer_scores import LayerScores
from layertune.selection import SELECTORS, blocks
from layertune.tasks import Batch, TokenStore, sorted_batches

if TYPE_CHECKING:
    from layertune.models import TaskModel

log = logging.getLogger(__name__)

BATCH = 32  # examples between two looks at the gaps
LEAST_EXAMPLES = 64  # examples, before anything is decided
_PART = 16  # of similar length, that run together: little of so few is padding
ENOUGH = 4.0  # standard errors
_FORECAST = 256  # examples after which it is forecast whether the split is large enough to decide


def deciding_pairs(selector: str, num_layers: int, k: int, scores: Sequence[float]) -> list[tuple[int, int]]:
    """Return the pairs of layers (0-based) whose order decides the set: a chosen one and one it could be.

    Args:
        selector: a ranking one of SELECTORS; whole models or blocks are ranked.
        num_layers: L.
        k: layers to choose.
        scores: [L].
    """
    chosen = {layer - 1 for layer in SELECTORS[selector](num_layers, k, scores, random.Random(0))}
    groups = blocks(num_layers, k) if selector.startswith("block_") else [range(num_layers)]
    return [
        (inside, outside)
        for group in groups
        for inside in group
        for outside in group
        if inside in chosen and outside not in chosen
    ]


class Gaps:
    """Running means and covariances of the layers' terms, [n, L], in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._origin: Tensor | None = None  # keeps the sums small
        self._sum: Tensor
        self._outer: Tensor

    def update(self, terms: Tensor) -> None:
        """Add the terms of some examples."""
        terms = terms.double().cpu()
        if self._origin is None:
            self._origin = terms.mean(0)
            self._sum = torch.zeros_like(self._origin)
            self._outer = torch.zeros(len(self._sum), len(self._sum), dtype=torch.float64)
        shifted = terms - self._origin
        self._sum += shifted.sum(0)
        self._outer += shifted.T @ shifted
        self.count += len(terms)

    @property
    def scores(self) -> list[float]:
        """Means so far, [L]."""
        assert self._origin is not None
        means: list[float] = (self._origin + self._sum / self.count).tolist()
        return means

    def smallest(self, pairs: Sequence[tuple[int, int]]) -> float:
        """Return the smallest gap of these pairs of layers, in standard errors of the paired difference."""
        mean = self._sum / self.count
        covariance = (self._outer - self.count * torch.outer(mean, mean)) / (self.count - 1)
        spread = covariance.diagonal()[:, None] + covariance.diagonal() - 2 * covariance
        error = (spread.clamp_min(0) / self.count).sqrt()
        scores = torch.tensor(self.scores, dtype=torch.float64)
        gap = (scores[:, None] - scores).abs()
        first, second = torch.tensor(pairs).T
        ratio = gap[first, second] / error[first, second]
        return float(ratio.nan_to_num(nan=0.0, posinf=math.inf).min())  # two equal layers decide nothing


def adaptive_scores(
    scorer: Callable[..., LayerScores],
    model: TaskModel,
    store: TokenStore,
    selector: str,
    k: int,
    batch_size: int = 64,
    **options: Any,
) -> LayerScores:
    """Score layers on as few examples as decide the choice; on all of them where that takes all.

    Args:
        scorer: a mean over examples: cosine, euclidean, io_cosine.
        model: to be scored.
        store: the training split; its order is drawn from seed 0 for all runs.
        selector: a ranking selector.
        k: layers to choose.
        batch_size: of the rest, where all examples are needed.
        options: of the scorer.
    """
    gaps = Gaps()
    smallest = 0.0

    def batches() -> Iterator[Batch]:
        nonlocal smallest
        order = np.random.default_rng(0).permutation(len(store))
        start, size, part = 0, LEAST_EXAMPLES, min(_PART, batch_size)
        while start < len(order):
            look = order[start : start + size]
            for rows in sorted_batches(store.lengths[look], part):
                yield store.batch(look[rows])
            start, size = start + size, BATCH
            scores = gaps.scores
            smallest = gaps.smallest(deciding_pairs(selector, len(scores), k, scores))
            if smallest > ENOUGH:
                return
            if gaps.count >= _FORECAST and gaps.count * (ENOUGH / max(smallest, 1e-9)) ** 2 > len(order):
                size, part = len(order), batch_size  # the gap grows with the root of the count: no hope

    found = scorer(model, batches(), each=gaps.update, **options)
    if found.examples < len(store):
        log.info(
            "scores: decided by %d of %d examples (smallest gap %.1f standard errors)",
            found.examples,
            len(store),
            smallest,
        )
    else:
        log.info("scores: all %d examples are needed (smallest gap so far %.1f)", len(store), smallest)
    return found
