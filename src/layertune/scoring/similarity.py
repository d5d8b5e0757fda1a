"""Scores that compare hidden states: the paper's cosine (§3.1), Euclidean (§7.3) and input/output
similarity (§4.2).

All read the model as pretrained: no gradients, no labels. Choice: [averaging the scores] dropout is off, and
means are taken over examples, not over batches, in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from layertune.errors import ScoreError
from layertune.models.backbone import full_precision
from layertune.models.modes import scoring_mode
from layertune.scoring.layer_scores import (
    LayerScores,
    Moments,
    Stopwatch,
    batches_on,
    finished,
)

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.tasks import Batch


Each = Callable[[Tensor], None]  # is given the terms of a batch, [B, L]; their means decide the order


def cosine(model: TaskModel, batches: Iterable[Batch], each: Each | None = None) -> LayerScores:
    """Score each layer by its mean cosine similarity to all other layers (§3.1).

    Runs one forward pass; the mean is taken over examples, so batch size does not matter.
    """
    return _between_layers("cosine", _cosine_matrix, model, batches, each)


def euclidean(model: TaskModel, batches: Iterable[Batch], each: Each | None = None) -> LayerScores:
    """Score each layer by the mean of -‖h^i - h^l‖ over all other layers (§7.3); the closest layers score
    highest.

    Choice: [Euclidean score] the negative distance, not 1 / (1 + distance), which averaging would reorder.
    """
    return _between_layers("euclidean", _distance_matrix, model, batches, each)


def _cosine_matrix(states: Tensor) -> Tensor:
    """Cosine of every pair of layers: [B, L, H] -> [B, L, L]."""
    unit = states / states.norm(dim=-1, keepdim=True)  # a zero vector has no direction: nan, caught later
    return unit @ unit.transpose(1, 2)


def _distance_matrix(states: Tensor) -> Tensor:
    """Negative distance of every pair of layers: [B, L, H] -> [B, L, L]."""
    return torch.stack(
        [-(states - states[:, [layer]]).norm(dim=-1) for layer in range(states.shape[1])], dim=1
    )


def _between_layers(
    name: str,
    similarity: Callable[[Tensor], Tensor],
    model: TaskModel,
    batches: Iterable[Batch],
    each: Each | None,
) -> LayerScores:
    if model.backbone.num_layers < 2:
        raise ScoreError(f"the {name} score compares layers, and the model has one: nothing to choose.")
    watch = Stopwatch()
    pairs, scores = Moments(), Moments()
    with scoring_mode(model), torch.no_grad():
        for batch in batches_on(model, batches):
            matrix = similarity(model.representatives(batch)).double()  # [B, L, L]
            # Row sum without the layer itself: for the cosine, (u^l · S - 1) / (L - 1).
            others = matrix.sum(-1) - matrix.diagonal(dim1=1, dim2=2)
            terms = others / (matrix.shape[1] - 1)
            scores.update(terms)
            if each is not None:
                each(terms)
            pairs.update(matrix)
    return finished(name, watch, scores.count, scores.mean, scores.variance.sqrt(), pairs.mean)


def io_cosine(
    model: TaskModel,
    batches: Iterable[Batch],
    tokens: Literal["all", "representative"] = "all",
    each: Each | None = None,
) -> LayerScores:
    """Score each layer by the cosine similarity of what enters and what leaves it (He et al. 2024, block
    drop).

    Layer 1 receives the embedding output. Choice: [I/O similarity] with `tokens="all"` one mean runs over all
    real tokens of all examples (std: over the examples' own means); with `representative`, over one token per
    example. What leaves the last layer of a decoder follows `model.last_layer`, as for every other score.
    """
    watch = Stopwatch()
    sums, counts, means = Moments(), Moments(), Moments()
    with scoring_mode(model), torch.no_grad():
        for batch in batches_on(model, batches):
            cosines, mask = _io_cosines(model, batch, tokens)  # [B, L, T], [B, T]
            totals = (cosines.double() * mask[:, None]).sum(-1)  # [B, L]
            lengths = mask.sum(1, keepdim=True).double()  # [B, 1]
            sums.update(totals)
            if each is not None:
                each(totals)
            counts.update(lengths)
            means.update(totals / lengths)
    return finished("io_cosine", watch, means.count, sums.mean / counts.mean, means.variance.sqrt())


def _io_cosines(model: TaskModel, batch: Batch, tokens: str) -> tuple[Tensor, Tensor]:
    mask = batch.attention_mask
    pick = model.backbone.picker(mask)
    kept: list[Tensor] = []

    def compare(_: int, before: Tensor, after: Tensor) -> None:
        if tokens == "representative":
            before, after = pick(before)[:, None], pick(after)[:, None]
        kept.append(F.cosine_similarity(full_precision(before), full_precision(after), dim=-1))

    model.backbone.run(batch, compare)
    return torch.stack(kept, 1), torch.ones_like(mask[:, :1]) if tokens == "representative" else mask
