"""RECAP's first two steps: a copy of the model without its lowest heads and neurons, physically smaller; and
which rows of that copy's matrices train.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layertune.methods.recap.groups import Cut, Layout, layer_prefixes

if TYPE_CHECKING:
    from layertune.models import TaskModel

MOST_OF_A_LAYER = 0.85  # at most this share of a layer's groups goes

# Groups that stay: pool -> layer -> group numbers in the whole model, ascending.
Kept = tuple[tuple[tuple[int, ...], ...], ...]


def everything(layout: Layout, num_layers: int) -> Kept:
    """Return all groups of all layers."""
    return tuple(tuple(tuple(range(pool.size)) for _ in range(num_layers)) for pool in layout.pools)


def removed_after(size: int, share: float, step: int, steps: int) -> int:
    """Return how many of `size` groups are gone after a sub-step (1-based), of `share` in all.

    Sub-step j removes the ratio (r/N)/(1 - (j - 1) r/N) of what is left: always the same share of the whole.
    """
    return math.floor(size * share * step / steps + 1e-9)


def most_of_a_layer(size: int) -> int:
    """Return how many of a layer's `size` groups may go."""
    return math.floor(MOST_OF_A_LAYER * size + 1e-9)


def without_lowest(
    kept: Sequence[Sequence[int]], scores: Sequence[Tensor], remove: int, size: int
) -> tuple[tuple[int, ...], ...]:
    """Remove the globally lowest groups of one pool; of equals the first.

    Args:
        kept: groups that are left, by layer.
        scores: their scores, by layer.
        remove: how many go now.
        size: groups of a whole layer: at most 85 % of them go.
    """
    least = size - most_of_a_layer(size)
    ranked = sorted(
        (score, layer, place)
        for layer, of_layer in enumerate(scores)
        for place, score in enumerate(of_layer.tolist())
    )
    left = [len(groups) for groups in kept]
    gone: set[tuple[int, int]] = set()
    for _, layer, place in ranked:
        if len(gone) == remove:
            break
        if left[layer] > least:
            left[layer] -= 1
            gone.add((layer, place))
    return tuple(
        tuple(group for place, group in enumerate(groups) if (layer, place) not in gone)
        for layer, groups in enumerate(kept)
    )


def positions(model: TaskModel, layout: Layout, kept: Kept) -> dict[str, tuple[int, Tensor]]:
    """Return, for every tensor that is cut, the dimension and which entries of the whole tensor stay."""
    found: dict[str, tuple[int, Tensor]] = {}
    for pool, layers in zip(layout.pools, kept, strict=True):
        for prefix, groups in zip(layer_prefixes(model.backbone), layers, strict=True):
            for cut in pool.cuts:
                found[prefix + cut.name] = cut.dim, cut.positions(groups, pool.size)
    return found


def pruned_copy(model: TaskModel, layout: Layout, kept: Kept) -> TaskModel:
    """Return a copy that consists of the kept groups alone; the model itself stays whole."""
    twin = copy.deepcopy(model)
    for name, (dim, where) in positions(model, layout, kept).items():
        path, _, leaf = name.rpartition(".")
        module = twin.get_submodule(path)
        whole = getattr(module, leaf)
        setattr(module, leaf, nn.Parameter(whole.detach().index_select(dim, where.to(whole.device))))
        if leaf == "weight":
            _say_shape(module)
    for block, heads in zip(twin.backbone.layers, kept[0], strict=True):
        _say_heads(block.get_submodule(layout.attention), heads, layout.head_size)
    return twin


def _say_shape(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    else:  # GPT-2's maps
        module.nx, module.nf = module.weight.shape


def _say_heads(attention: nn.Module, heads: Sequence[int], head_size: int) -> None:
    """Tell an attention module which heads it has; those that read the shape of their input need nothing."""
    for name, value in (
        ("num_attention_heads", len(heads)),
        ("num_heads", len(heads)),
        ("all_head_size", len(heads) * head_size),
        ("split_size", len(heads) * head_size),
    ):
        if hasattr(attention, name):
            setattr(attention, name, value)
    if hasattr(attention, "o"):  # MPNet: one table of position biases, [1, heads, T, T], serves all layers
        attention.register_buffer("kept_heads", torch.tensor(heads), persistent=False)
        attention.register_forward_pre_hook(_pick_biases, with_kwargs=True)


def _pick_biases(
    attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if "position_bias" in kwargs:
        biases = kwargs["position_bias"]
        return args, kwargs | {"position_bias": None if biases is None else biases[:, attention.kept_heads]}
    hidden, mask, biases, *rest = args
    return (hidden, mask, None if biases is None else biases[:, attention.kept_heads], *rest), kwargs


def group_scores(squares: dict[str, Tensor], layout: Layout, prefixes: Sequence[str]) -> list[list[Tensor]]:
    """Add up sums along the cut dimensions by group: pool -> layer -> [groups]."""

    def of_layer(cuts: Sequence[Cut], prefix: str) -> Tensor:
        return torch.stack([cut.per_group(squares[prefix + cut.name]) for cut in cuts]).sum(0)

    return [[of_layer(layout.matrices(pool), prefix) for prefix in prefixes] for pool in layout.pools]


def highest_rows(scores: Mapping[str, Tensor], masked: float) -> dict[str, Tensor]:
    """Keep all but the share `masked` of the rows of all matrices taken together: those of the highest score.

    Of equals the first stay.

    Choice: [RECAP, mask] all rows of a pool's matrices are ranked together, by their
    sums as they are. The source ranks globally, attention and feed-forward network apart; that each matrix
    counts on its own is read to mean that the rows which make up one head or neuron are masked one by one: a
    ranking within each matrix would need no pools. Sums are not divided by the length of a row; neither are
    those by which groups are removed.

    Args:
        scores: matrix -> [rows].
        masked: at least 0, below 1.

    Returns:
        Matrix -> [rows] of bool, true where the row trains.
    """
    everything = torch.cat(list(scores.values()))
    keep = len(everything) - math.floor(masked * len(everything) + 1e-9)
    chosen = torch.zeros(len(everything), dtype=torch.bool)
    chosen[torch.argsort(everything, descending=True, stable=True)[:keep]] = True
    parts = chosen.split([len(rows) for rows in scores.values()])
    return dict(zip(scores, parts, strict=True))
