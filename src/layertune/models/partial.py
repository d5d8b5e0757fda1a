"""Part of a forward pass: what the frozen layers made of a batch is given, or made once and kept.

The model's own forward runs, with its masks, rotations and norms as they are; only the blocks that are left
out stand aside for a module that hands states on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from layertune.models.backbone import Backbone
    from layertune.tasks import Batch


def why_not_partial(backbone: Backbone) -> str | None:
    """Say why a model's forward pass cannot start at a later layer; None where it can."""
    if backbone.architecture.plain:
        return None
    return f"the layers of a {backbone.model.config.model_type} model hand on more than their states"


class HandOn(nn.Module):
    """Stands where a block was: returns what it is given, or fixed states [B, T, H]."""

    def __init__(self, as_tuple: bool, states: Tensor | None = None) -> None:
        super().__init__()
        self.as_tuple = as_tuple
        self.states = states

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor | tuple[Tensor]:
        """Return states in the form of the architecture's blocks."""
        states = hidden_states if self.states is None else self.states
        return (states,) if self.as_tuple else states


@contextmanager
def standing_in(backbone: Backbone, modules: Mapping[int, nn.Module]) -> Iterator[None]:
    """Put other modules in the place of some layers (1-based) for the length of a forward pass."""
    if not modules:
        yield
        return
    blocks = backbone.layers
    parent, _, name = backbone.layers_path.rpartition(".")
    owner = backbone.model.get_submodule(parent)
    setattr(owner, name, nn.ModuleList(modules.get(n, block) for n, block in enumerate(blocks, start=1)))
    try:
        yield
    finally:
        setattr(owner, name, blocks)


def given(backbone: Backbone, batch: Batch) -> dict[int, nn.Module]:
    """Return what stands for the layers whose result comes with the batch."""
    if batch.prefix is None:
        return {}
    states = HandOn(backbone.architecture.tuples, batch.prefix.states)
    return dict.fromkeys(range(1, batch.prefix.layer), states)


@torch.no_grad()
def run_below(
    backbone: Backbone, batch: Batch, layer: int, representatives: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """Run the layers below `layer` alone.

    Args:
        backbone: its dropout should be off.
        batch: may itself come with the result of still lower layers.
        layer: 2 to L + 1; L + 1 runs the whole model.
        representatives: whether they are wanted.

    Returns:
        The states that enter `layer`, [B, T, H] (None for L + 1), and the representative vectors of the
        layers below it, [B, layer - 1, H].
    """
    pick = backbone.picker(batch.attention_mask)
    entering: Tensor | None = None
    kept: list[Tensor] = []

    def keep(number: int, _: Tensor, after: Tensor) -> None:
        nonlocal entering
        if representatives and number < layer:
            kept.append(pick(after))
        if number == layer - 1 < backbone.num_layers:
            entering = after

    above = range(layer, backbone.num_layers + 1)
    with standing_in(backbone, {number: HandOn(backbone.architecture.tuples) for number in above}):
        backbone.run(batch, keep)
    if not representatives:
        return entering, None
    vectors = [torch.stack(kept, dim=1)] if kept else []
    if batch.prefix is not None and batch.prefix.representatives is not None:
        vectors.insert(0, batch.prefix.representatives)
    return entering, torch.cat(vectors, dim=1)
