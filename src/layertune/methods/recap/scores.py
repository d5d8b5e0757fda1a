"""How sensitive the loss is to groups (Taylor) and to rows (Fisher), from some training rows.

Choice: [RECAP, scores] dropout is off, so that a score depends on the rows drawn alone; nothing is rounded to
16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from layertune.methods.recap.prune import Layout, group_scores, layer_prefixes
from layertune.models.backbone import scoring_mode
from layertune.tasks import in_parts

if TYPE_CHECKING:
    from layertune.config import TrainSpec
    from layertune.models import TaskModel
    from layertune.tasks import TaskData

MINI_BATCHES = 10  # Paper: the mean over ten mini-batches


def draw_rows(num_rows: int, batch_size: int, seed: Sequence[int]) -> list[np.ndarray]:
    """Draw the rows of each mini-batch, without replacement within one."""
    rng = np.random.default_rng(seed)
    size = min(batch_size, num_rows)
    return [rng.choice(num_rows, size, replace=False) for _ in range(MINI_BATCHES)]


def taylor(
    model: TaskModel, layout: Layout, data: TaskData, train: TrainSpec, seed: Sequence[int]
) -> list[list[Tensor]]:
    """Return the Taylor score of every group: mean of (w g)^2, summed over the group's weights.

    Returns:
        Pool -> layer -> [groups], float64 on the CPU.
    """
    prefixes = list(layer_prefixes(model.backbone))
    dims = {
        prefix + cut.name: cut.dim
        for pool in layout.pools
        for cut in layout.matrices(pool)
        for prefix in prefixes
    }
    weights = _parameters(model, dims)
    sums = {name: torch.zeros(weights[name].shape[dim], dtype=torch.float64) for name, dim in dims.items()}
    for gradients in _gradients(model, list(weights.values()), data, train, seed):
        for (name, dim), gradient in zip(dims.items(), gradients, strict=True):
            squares = (weights[name].detach() * gradient).square_()
            sums[name] += squares.sum(1 - dim).double().cpu() / MINI_BATCHES
    return group_scores(sums, layout, prefixes)


def fisher_rows(
    model: TaskModel, layout: Layout, data: TaskData, train: TrainSpec, seed: Sequence[int]
) -> list[dict[str, Tensor]]:
    """Return the Fisher score of every row: mean of g^2, summed over the row.

    Returns:
        Per pool, by name of the matrix: [rows], float64 on the CPU.
    """
    names = [
        [prefix + cut.name for prefix in layer_prefixes(model.backbone) for cut in layout.matrices(pool)]
        for pool in layout.pools
    ]
    weights = _parameters(model, [name for pool in names for name in pool])
    row = layout.row_dim
    sums = {name: torch.zeros(weights[name].shape[row], dtype=torch.float64) for name in weights}
    for gradients in _gradients(model, list(weights.values()), data, train, seed):
        for name, gradient in zip(weights, gradients, strict=True):
            sums[name] += gradient.square().sum(1 - row).double().cpu() / MINI_BATCHES
    return [{name: sums[name] for name in pool} for pool in names]


def _parameters(model: TaskModel, names: Iterator[str] | Sequence[str] | dict[str, int]) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in names}


def _gradients(
    model: TaskModel, weights: list[Tensor], data: TaskData, train: TrainSpec, seed: Sequence[int]
) -> Iterator[list[Tensor]]:
    """Yield the gradients of the mean loss of each mini-batch; the weights stay as they are."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    store, generated = data.train.store, data.kind == "generation"
    assert train.batch_size is not None
    try:
        model.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        with scoring_mode(model), torch.enable_grad():
            for rows in draw_rows(len(store), train.batch_size, seed):
                total: list[Tensor] | None = None
                for part, share in in_parts(store.batch, rows, train.micro_batch, generated):
                    loss = model(part.to(model.device)).loss * share
                    found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
                    if total is None:
                        total = list(found)
                    else:
                        torch._foreach_add_(total, list(found))
                assert total is not None
                yield total
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
