"""Scores that read a model's weights and no data: one for all tasks."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layertune.scoring.layer_scores import (
    LayerScores,
    finished,
    layer_parameters,
    sums_of_squares,
)

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.tasks import Batch

IQR_OF_NORMAL = 1.349  # the quartiles of a normal distribution lie so many standard deviations apart


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
