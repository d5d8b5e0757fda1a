"""What RECAP removes as one: an attention head, or a neuron of the feed-forward network.

A head is its rows of query, key and value and its columns of the output map; a neuron is a row of the first
map and a column of the second. Where query heads share a key and a value (Llama, Gemma-2), they go together:
another count per key would need another model. A gated network has two first maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from layertune.errors import ConfigError
from layertune.models import Backbone
from layertune.models.architectures import sites_of

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
