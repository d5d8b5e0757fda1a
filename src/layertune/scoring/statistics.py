"""Scores that look at one layer at a time: the norm of its gradient, its squared gradients, the variance of
its features (§7.4); and, without any data and so one for all tasks, the norm and the spectrum of its
weights."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from layertune.models.backbone import full_precision, scoring_mode
from layertune.scoring.layer_scores import (
    Each,
    LayerScores,
    RunningStatistics,
    batches_on,
    finished,
    layer_parameters,
    sums_of_squares,
)
from layertune.tasks.batches import loss_terms

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.tasks import Batch

HEAD_SEED = 0
IQR_OF_NORMAL = 1.349  # the quartiles of a normal distribution lie so many standard deviations apart


def gradient_norm(model: TaskModel, batches: Iterable[Batch]) -> LayerScores:
    """Score each layer by the L2 norm of the gradient of all its parameters over the training data (§7.4).

    The loss is the one of training, at the pretrained weights, with dropout off. The model is left exactly as
    it was.

    Choice: [gradient norm] that of the mean loss over all examples (in generation over all tokens learnt), so
    that which rows share a batch does not matter; the norm of each batch's own gradient would be large where
    batches are small. The head is drawn from seed 0 whatever the run's seed, so that one selection serves all
    seeds; for generation it is the language model's own.
    """
    started = time.perf_counter()
    examples = terms = 0
    layers = layer_parameters(model)
    wanted = [parameter for layer in layers for parameter in layer]
    sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in wanted]
    with _differentiable_in(model, wanted) as scored:
        for batch in batches_on(scored, batches):
            count = loss_terms(batch)
            gradients = torch.autograd.grad(scored(batch).loss, wanted, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:  # a parameter that the loss does not reach counts as zero
                    total.add_(gradient, alpha=count)
            terms += count
            examples += len(batch)
    norms = sums_of_squares(sums, layers).sqrt()
    return finished("gradient_norm", started, examples, norms / terms, torch.zeros_like(norms))


def fisher(model: TaskModel, batches: Iterable[Batch], each: Each | None = None) -> LayerScores:
    """Score each layer by its empirical Fisher information: the squared gradients of all its parameters,
    summed, at the true labels, averaged over the examples (Sung et al. 2021, FISH mask, arXiv 2111.09839;
    there per parameter).

    One forward and one backward pass per example. Choice: [Fisher information] loss and head are those of
    `gradient_norm`; the gradient of each example is squared, not that of a batch.
    """
    started = time.perf_counter()
    scores = RunningStatistics()
    layers = layer_parameters(model)
    wanted = [parameter for layer in layers for parameter in layer]
    with _differentiable_in(model, wanted) as scored:
        for batch in batches_on(scored, batches):
            rows = []
            for row in range(len(batch)):
                gradients = torch.autograd.grad(scored(batch.row(row)).loss, wanted, allow_unused=True)
                rows.append(sums_of_squares(gradients, layers))
            terms = torch.stack(rows)  # [B, L]
            scores.update(terms)
            if each is not None:
                each(terms)
    return finished("fisher", started, scores.count, scores.mean, scores.variance.sqrt())


@contextmanager
def _differentiable_in(model: TaskModel, wanted: Iterable[Tensor]) -> Iterator[TaskModel]:
    """Give the model with the head that gradients are taken with, these parameters alone requiring one."""
    scored = model.with_fresh_head(HEAD_SEED)
    flags = [(parameter, parameter.requires_grad) for parameter in scored.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for parameter in wanted:
            parameter.requires_grad_(True)
        with scoring_mode(scored), torch.enable_grad():
            yield scored
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def feature_variance(
    model: TaskModel, batches: Iterable[Batch], tokens: Literal["all", "representative"] = "representative"
) -> LayerScores:
    """Score each layer by the variance of its features over the examples, averaged over dimensions (§7.4).

    Choice: [feature variance] the features are those of the representative token, or with `tokens="all"` of
    every real token; the variances of the dimensions are averaged. `std` is the spread over dimensions. The
    score grows with the scale of the states: pre-norm decoders favour their last layers.
    """
    started = time.perf_counter()
    features = RunningStatistics()
    examples = 0
    with scoring_mode(model), torch.no_grad():
        for batch in batches_on(model, batches):
            if tokens == "representative":
                features.update(model.representatives(batch))
            else:
                features.update(_real_tokens(model, batch))
            examples += len(batch)
    variance = features.variance  # [L, H]
    return finished("feature_variance", started, examples, variance.mean(1), variance.std(1, correction=0))


def _real_tokens(model: TaskModel, batch: Batch) -> Tensor:
    """States of every real token of a batch: [tokens, L, H]."""
    real = batch.attention_mask.bool()
    kept: list[Tensor] = []
    model.backbone.run(batch, lambda _, __, states: kept.append(full_precision(states)[real]))
    return torch.stack(kept, 1)


def weight_norm(model: TaskModel, batches: Iterable[Batch] = ()) -> LayerScores:
    """Score each layer by the L2 norm of all its parameters as one vector: the layer-wise weight norms that
    LISA starts from (Pan et al. 2024, arXiv 2403.17919; there over the steps of training)."""
    started = time.perf_counter()
    layers = layer_parameters(model)
    with torch.no_grad():
        norms = sums_of_squares([weight for layer in layers for weight in layer], layers).sqrt()
    return finished("weight_norm", started, 0, norms, torch.zeros_like(norms))


def spectrum(model: TaskModel, batches: Iterable[Batch] = ()) -> LayerScores:
    """Score each layer by the signal-to-noise ratio of its weight matrices (Hartford et al. 2024, Spectrum,
    arXiv 2406.06623; what Axolotl's `spectrum` plugin trains are the matrices of highest ratio).

    Choice: [Spectrum] the source ranks the matrices of one kind (all query projections, …) over the layers
    and trains the best of each kind; a layer's score is the mean over its matrices here, so that it chooses
    layers. Where all singular values lie above the noise, which the source calls an infinite ratio, the
    smallest one counts as noise. `std` is the spread over its matrices.
    """
    started = time.perf_counter()
    with torch.no_grad():
        ratios = [
            torch.stack([_signal_to_noise(weight) for weight in layer if min(_sides(weight)) > 1])
            for layer in layer_parameters(model)
        ]
    values = torch.stack([layer.mean() for layer in ratios])
    return finished(
        "spectrum", started, 0, values, torch.stack([layer.std(correction=0) for layer in ratios])
    )


def _sides(weight: Tensor) -> tuple[int, int]:
    """Return rows and columns of a weight as a matrix; a vector has one column."""
    return len(weight), weight.numel() // len(weight)


def _signal_to_noise(weight: Tensor) -> Tensor:
    """Return (sum of singular values above the noise / sum of the others) / the largest of them.

    Noise of standard deviation σ has no singular value above σ (1 + √β) by the Marchenko-Pastur law, with β
    the shorter side divided by the longer; as in the source σ is estimated from the interquartile range of
    the singular values themselves.
    """
    rows, columns = _sides(weight)
    if not weight.isfinite().all():  # no singular values
        return torch.full((), math.nan, dtype=torch.float64, device=weight.device)
    values = torch.linalg.svdvals(weight.float().reshape(rows, columns)).double()
    low, high = torch.quantile(values, torch.tensor([0.25, 0.75], dtype=values.dtype, device=values.device))
    beta = min(rows, columns) / max(rows, columns)
    is_signal = values > (high - low) / IQR_OF_NORMAL * (1 + math.sqrt(beta))
    is_signal[-1] = False  # values come in descending order
    return values[is_signal].sum() / values[~is_signal].sum() / values.max()
