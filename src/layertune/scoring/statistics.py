"""Scores that look at one layer at a time (§7.4): the norm of its gradient, the variance of its features."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import torch
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
from layertune.tasks.parts import loss_terms

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.tasks import Batch

HEAD_SEED = 0


def gradient_norm(model: TaskModel, batches: Iterable[Batch]) -> LayerScores:
    """Score each layer by the L2 norm of the gradient of all its parameters over the training data (§7.4).

    The loss is the one of training, at the pretrained weights, with dropout off. The only score that reads
    labels and runs a backward pass. The model is left exactly as it was.

    Choice: [gradient norm] that of the mean loss over all examples (in generation over all tokens learnt), so
    that which rows share a batch does not matter; the norm of each batch's own gradient would be large where
    batches are small. The head is drawn from seed 0 whatever the run's seed, so that one selection serves all
    seeds; for generation it is the language model's own.
    """
    watch = Stopwatch()
    examples = terms = 0
    layers = [list(layer.parameters()) for layer in model.backbone.layers]
    wanted = [parameter for layer in layers for parameter in layer]
    if odd := [parameter for parameter in wanted if parameter.is_meta or not parameter.is_floating_point()]:
        raise ScoreError(
            f"a gradient is taken of weights in memory and in floating point; some here are {odd[0].dtype} "
            f"on {odd[0].device}: load the model unquantised, on one device."
        )
    sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in wanted]
    scored = model.with_fresh_head(HEAD_SEED)
    flags = [(parameter, parameter.requires_grad) for parameter in scored.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for parameter in wanted:
            parameter.requires_grad_(True)
        with scoring_mode(scored), torch.enable_grad():
            for batch in batches_on(scored, batches):
                count = loss_terms(batch)
                gradients = torch.autograd.grad(scored(batch).loss, wanted, allow_unused=True)
                for total, gradient in zip(sums, gradients, strict=True):
                    if gradient is not None:  # a parameter that the loss does not reach counts as zero
                        total.add_(gradient, alpha=count)
                terms += count
                examples += len(batch)
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    squares = torch.stack([total.double().square().sum() for total in sums])
    norms = torch.stack([part.sum().sqrt() for part in squares.split([len(layer) for layer in layers])])
    return finished("gradient_norm", watch, examples, norms / terms, torch.zeros_like(norms))


def feature_variance(
    model: TaskModel, batches: Iterable[Batch], tokens: Literal["all", "representative"] = "representative"
) -> LayerScores:
    """Score each layer by the variance of its features over the examples, averaged over dimensions (§7.4).

    Choice: [feature variance] the features are those of the representative token, or with `tokens="all"` of
    every real token; the variances of the dimensions are averaged. `std` is the spread over dimensions. The
    score grows with the scale of the states: pre-norm decoders favour their last layers.
    """
    watch = Stopwatch()
    features = Moments()
    examples = 0
    with scoring_mode(model), torch.no_grad():
        for batch in batches_on(model, batches):
            if tokens == "representative":
                features.update(model.representatives(batch))
            else:
                features.update(_real_tokens(model, batch))
            examples += len(batch)
    variance = features.variance  # [L, H]
    return finished("feature_variance", watch, examples, variance.mean(1), variance.std(1, correction=0))


def _real_tokens(model: TaskModel, batch: Batch) -> Tensor:
    """States of every real token of a batch: [tokens, L, H]."""
    real = batch.attention_mask.bool()
    kept: list[Tensor] = []
    model.backbone.run(batch, lambda _, __, states: kept.append(full_precision(states)[real]))
    return torch.stack(kept, 1)
