"""Scores that compare hidden states: of layers with one another (cosine §3.1, Euclidean §7.3, linear CKA),
or of what enters a layer with what leaves it (I/O similarity §4.2, block influence, angular distance).

All read the model as pretrained: no gradients, no labels. Choice: [averaging the scores] dropout is off, and
means are taken over examples, not over batches, in float64.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from layertune.errors import ScoreError
from layertune.models.backbone import full_precision, scoring_mode
from layertune.scoring.layer_scores import (
    Each,
    LayerScores,
    RunningStatistics,
    batches_on,
    finished,
)

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.tasks import Batch


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
        [-(states - states[:, layer : layer + 1]).norm(dim=-1) for layer in range(states.shape[1])], dim=1
    )


def _between_layers(
    name: str,
    similarity: Callable[[Tensor], Tensor],
    model: TaskModel,
    batches: Iterable[Batch],
    each: Each | None,
) -> LayerScores:
    _check_two_layers(name, model)
    started = time.perf_counter()
    pairs, scores = RunningStatistics(), RunningStatistics()
    with scoring_mode(model), torch.no_grad():
        for batch in batches_on(model, batches):
            matrix = similarity(model.representatives(batch)).double()  # [B, L, L]
            terms = _mean_of_others(matrix)
            scores.update(terms)
            if each is not None:
                each(terms)
            pairs.update(matrix)
    return finished(name, started, scores.count, scores.mean, scores.variance.sqrt(), pairs.mean)


def _check_two_layers(name: str, model: TaskModel) -> None:
    if model.backbone.num_layers < 2:
        raise ScoreError(f"the {name} score compares layers, and the model has one: nothing to choose.")


def _mean_of_others(matrix: Tensor) -> Tensor:
    """Mean similarity of each layer to all others: [..., L, L] -> [..., L]."""
    # Row sum without the layer itself: for the cosine, (u^l · S - 1) / (L - 1).
    others = matrix.sum(-1) - matrix.diagonal(dim1=-2, dim2=-1)
    return others / (matrix.shape[-1] - 1)


def cka(model: TaskModel, batches: Iterable[Batch]) -> LayerScores:
    """Score each layer by its mean linear CKA with all others (Kornblith et al. 2019, arXiv 1905.00414).

    With X_i [n, H] the representative vectors of layer i, centred over the examples, the similarity of two
    layers is ‖X_iᵀ X_j‖² / (‖X_iᵀ X_i‖ ‖X_jᵀ X_j‖) in Frobenius norms. It is one number for all examples, no
    mean over them, so `std` is zeros. H² numbers per pair of layers are kept: 0.4 GB for BERT-base.

    Raises:
        ScoreError: there are fewer than two examples or layers.
    """
    _check_two_layers("cka", model)
    started = time.perf_counter()
    examples = 0
    with scoring_mode(model), torch.no_grad():
        for batch in batches_on(model, batches):
            states = model.representatives(batch).double()  # [B, L, H]
            if not examples:
                origin = states.mean(0)  # keeps the sums small
                total = torch.zeros_like(origin)
                layers = range(len(origin))
                products: list[Tensor | float] = [0.0 for _ in layers]  # layer i: [H, L - i, H]
            shifted = states - origin
            total += shifted.sum(0)
            for i in layers:
                products[i] += torch.einsum("bh,blg->hlg", shifted[:, i], shifted[:, i:])
            examples += len(batch)
    if examples < 2:
        raise ScoreError("the cka score compares how examples differ: it needs at least two of them.")
    mean = total / examples
    shared = torch.zeros(len(layers), len(layers), dtype=total.dtype, device=total.device)
    for i in layers:
        centred = products[i] - examples * torch.einsum("h,lg->hlg", mean[i], mean[i:])
        shared[i, i:] = shared[i:, i] = centred.square().sum((0, 2))
    own = shared.diagonal().sqrt()
    matrix = shared / (own[:, None] * own)
    values = _mean_of_others(matrix)
    return finished("cka", started, examples, values, torch.zeros_like(values), matrix)


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
    return _across_each_layer("io_cosine", lambda cosines: cosines, model, batches, tokens, each)


def block_influence(
    model: TaskModel,
    batches: Iterable[Batch],
    tokens: Literal["all", "representative"] = "all",
    each: Each | None = None,
) -> LayerScores:
    """Score each layer by how much it turns its input: 1 - cos of input and output, averaged over the tokens
    (Block Influence: Men et al. 2024, ShortGPT, arXiv 2403.03853).

    It is 1 - `io_cosine`, so its highest layers are those of lowest I/O similarity.
    """
    return _across_each_layer("block_influence", lambda cosines: 1 - cosines, model, batches, tokens, each)


def angular(
    model: TaskModel,
    batches: Iterable[Batch],
    tokens: Literal["all", "representative"] = "representative",
    each: Each | None = None,
) -> LayerScores:
    """Score each layer by the angle between its input and its output, arccos(cos) / π, averaged over the
    examples (Gromov et al. 2024, arXiv 2403.17887, for a block of one layer).

    Choice: [angular distance] the source reads the last token of a decoder; here it is the representative
    token, which is that one for decoders and the first for encoders.
    """

    def angle(cosines: Tensor) -> Tensor:
        return torch.arccos(cosines.clamp(-1, 1)) / math.pi

    return _across_each_layer("angular", angle, model, batches, tokens, each)


def _across_each_layer(
    name: str,
    term: Callable[[Tensor], Tensor],
    model: TaskModel,
    batches: Iterable[Batch],
    tokens: str,
    each: Each | None,
) -> LayerScores:
    """Average a function of the cosine between a layer's input and output over tokens and examples."""
    started = time.perf_counter()
    sums, counts, means = RunningStatistics(), RunningStatistics(), RunningStatistics()
    with scoring_mode(model), torch.no_grad():
        for batch in batches_on(model, batches):
            cosines, mask = _io_cosines(model, batch, tokens)  # [B, L, T], [B, T]
            totals = (term(cosines.double()) * mask[:, None]).sum(-1)  # [B, L]
            lengths = mask.sum(1, keepdim=True).double()  # [B, 1]
            sums.update(totals)
            if each is not None:
                each(totals)
            counts.update(lengths)
            means.update(totals / lengths)
    return finished(name, started, means.count, sums.mean / counts.mean, means.variance.sqrt())


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
