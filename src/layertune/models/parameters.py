"""The parameters of a model: where each lies, which are never read, what tells two values apart."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from layertune.models.task_model import TaskModel

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes of a number -> integer of that size


def unused_parameters(model: TaskModel) -> set[nn.Parameter]:
    """Return parameters that no forward pass reads: a pooler, or a final norm that `raw` bypasses."""
    backbone = model.backbone
    parts = [backbone.pooler]
    if backbone.last_layer == "raw" and model.kind != "generation":
        parts.append(backbone.final_norm)
    return {parameter for part in parts if part is not None for parameter in part.parameters()}


def values_of(model: nn.Module, names: Collection[str]) -> dict[str, Tensor]:
    """Return the values of some parameters by name, on the CPU: not as copies, where they lie there."""
    return {name: p.detach().cpu() for name, p in model.named_parameters() if name in names}


@torch.no_grad()
def put_values(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put values into parameters by name."""
    parameters = dict(model.named_parameters())
    for name, value in values.items():
        parameters[name].copy_(value)


def fingerprints(named: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Return the sha256 of the bits of each tensor."""
    return {
        name: hashlib.sha256(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy()).hexdigest()
        for name, tensor in named
    }


def checksum(parameter: nn.Parameter) -> int:
    """Return the sum of a tensor's bits read as integers, computed where it lies: fast, and enough to see an
    optimiser's update.
    """
    bits = parameter.detach().reshape(-1).view(_INTEGERS[parameter.element_size()])
    return int(bits.sum(dtype=torch.int64))


def places_of(model: TaskModel) -> dict[str, int | None]:
    """Return where each parameter lies: its layer (1..L), 0 below the layers, None above them or unused."""
    backbone = model.backbone
    above = set(model.head.parameters()) - set(backbone.parameters())  # a tied head is the embedding
    above |= unused_parameters(model)
    if backbone.final_norm is not None:
        above |= set(backbone.final_norm.parameters())
    layer_of: dict[nn.Parameter, int] = {}  # of a parameter that layers share: the lowest of them
    for number, layer in enumerate(backbone.layers, start=1):
        for parameter in layer.parameters():
            layer_of.setdefault(parameter, number)
    return {name: None if p in above else layer_of.get(p, 0) for name, p in model.named_parameters()}
