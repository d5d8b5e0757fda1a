"""RECAP's first two steps: a copy of the model without its lowest heads and neurons, physically smaller; and
which rows of that copy's matrices train.

What is removed as one is a head or a neuron. A head is its rows of query, key and value and its columns of
the output map; a neuron is a row of the first map and a column of the second. Where query heads share a key
and a value (Llama, Gemma-2), they go together: another count per key would need another model. A gated
network has two first maps.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layertune.errors import ConfigError
from layertune.models import Backbone
from layertune.models.architectures import sites_of

if TYPE_CHECKING:
    from layertune.models import TaskModel

# DeBERTa's attention has further maps, from positions to the rows of each head.
_POSITIONS = ("pos_proj", "pos_q_proj", "pos_key_proj", "pos_query_proj")


@dataclass(frozen=True)
class Cut:
    """One dimension of one tensor that becomes shorter when groups go.

    Attributes:
        name: the tensor's name in its block.
        dim: the dimension that holds the groups.
        unit: consecutive entries of one group.
        repeats: how often all groups come one after the other (GPT-2's fused map: three times).
    """

    name: str
    dim: int
    unit: int
    repeats: int = 1

    def positions(self, groups: Sequence[int], num_groups: int) -> Tensor:
        """Return where entries of these groups lie among those of all `num_groups`, ascending."""
        first = torch.tensor(groups, dtype=torch.int64)[:, None] * self.unit + torch.arange(self.unit)
        starts = torch.arange(self.repeats) * num_groups * self.unit
        return (starts[:, None] + first.flatten()).flatten()

    def per_group(self, entries: Tensor) -> Tensor:
        """Add up entries along the cut dimension by group: [repeats x groups x unit] -> [groups]."""
        return entries.view(self.repeats, -1, self.unit).sum((0, 2))


@dataclass(frozen=True)
class Pool:
    """Groups of one kind in every layer; they are compared with each other alone.

    Attributes:
        name: `heads` or `neurons`.
        cuts: what a layer loses with a group.
        size: groups of a whole layer.
        numbers: parameters of one group.
    """

    name: str
    cuts: tuple[Cut, ...]
    size: int
    numbers: int


@dataclass(frozen=True)
class Layout:
    """Where the groups of an architecture lie; all its layers are alike.

    Attributes:
        pools: heads, neurons.
        row_dim: the dimension of a stored matrix that counts its rows, the outputs (GPT-2's maps: 1).
        attention: path of the module that counts its heads.
        head_size: query, key or value entries of one head.
    """

    pools: tuple[Pool, Pool]
    row_dim: int
    attention: str
    head_size: int

    def matrices(self, pool: Pool) -> list[Cut]:
        """Return the cuts of a pool that are made in matrices."""
        return [cut for cut in pool.cuts if cut.name.endswith("weight")]


def layout_of(backbone: Backbone) -> Layout:
    """Find the groups of a backbone.

    Raises:
        ConfigError: heads or neurons of this architecture cannot be removed.
    """
    config, block = backbone.model.config, backbone.layers[0]
    sites = sites_of(config.model_type, "recap")
    shapes = {name: parameter.shape for name, parameter in block.named_parameters()}
    if getattr(config, "talking_head", False):
        raise ConfigError("method=recap cannot remove heads of a DeBERTa with talking heads: they are mixed.")
    row = 0 if isinstance(block.get_submodule(sites.ffn_out), nn.Linear) else 1
    output, inner = sites.attention_out, sites.ffn_in
    groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    queries = config.num_attention_heads // groups
    size = shapes[f"{output}.weight"][1 - row] // config.num_attention_heads
    maps = [(sites.query, queries * size, 1), (sites.key, size, 1), (sites.value, size, 1)]
    if sites.fused is not None:
        maps = [(sites.query, size, 3) if sites.fused == "thirds" else (sites.query, 3 * size, 1)]
    maps += [(f"{sites.attention}.{name}", size, 1) for name in _POSITIONS]
    heads = [Cut(f"{path}.weight", row, unit, repeats) for path, unit, repeats in maps]
    heads += [Cut(f"{path}.bias", 0, unit, repeats) for path, unit, repeats in maps]
    heads += [Cut(f"{sites.attention}.{name}", 0, size) for name in ("q_bias", "v_bias")]  # DeBERTa v1
    heads += [Cut(f"{output}.weight", 1 - row, queries * size)]
    neurons = [Cut(f"{path}.weight", row, 1) for path in inner] + [
        Cut(f"{path}.bias", 0, 1) for path in inner
    ]
    neurons += [Cut(f"{sites.ffn_out}.weight", 1 - row, 1)]
    width = shapes[f"{sites.ffn_out}.weight"][1 - row]
    pools = _pool("heads", heads, groups, shapes), _pool("neurons", neurons, width, shapes)
    return Layout(pools, row, sites.attention, size)


def _pool(name: str, cuts: Sequence[Cut], size: int, shapes: Mapping[str, torch.Size]) -> Pool:
    found = tuple(cut for cut in cuts if cut.name in shapes)
    return Pool(name, found, size, sum(shapes[cut.name].numel() for cut in found) // size)


def layer_prefixes(backbone: Backbone) -> Iterator[str]:
    """Yield what the names of a layer's parameters begin with in the task model, layer 1 first."""
    for number in range(backbone.num_layers):
        yield f"backbone.model.{backbone.layers_path}.{number}."


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
