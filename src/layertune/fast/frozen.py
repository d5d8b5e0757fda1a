"""Frozen weights are cast to bf16 once, while autocast casts those of a linear map anew in every forward
pass.

A linear map computes the same result to the bit. The copies lie beside the model's own tensors, which stay as
they are: those are fingerprinted, saved and found by name.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_MAPS = (nn.Linear, Conv1D)  # all that autocast computes in half precision from parameters of its own


def hold_frozen(model: nn.Module) -> None:
    """Let the frozen linear maps of a model read bf16 copies of their weights under autocast.

    Their weights must stay frozen and as they are until `release_frozen`.
    """
    for module in _frozen_maps(model):
        halves = {
            name: None if own is None else own.detach().bfloat16() for name, own in module._parameters.items()
        }
        module.forward = partial(_forward, module, halves)  # found before the class's, until `release_frozen`


def copies_bytes(model: nn.Module) -> int:
    """Return how many bytes the copies of `hold_frozen` would take."""
    return sum(2 * own.numel() for module in _frozen_maps(model) for own in module.parameters(recurse=False))


def release_frozen(model: nn.Module) -> None:
    """Undo `hold_frozen`, and free its copies."""
    for module in model.modules():
        if getattr(vars(module).get("forward"), "func", None) is _forward:
            del module.forward


def _frozen_maps(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the plain linear maps that are frozen in full, and whose forward pass is that of their class."""
    for module in model.modules():
        own = module.parameters(recurse=False)
        if type(module) in _MAPS and "forward" not in vars(module) and all(map(_is_held, own)):
            yield module


def _is_held(parameter: nn.Parameter) -> bool:
    return not parameter.requires_grad and parameter.dtype == torch.float32 and not parameter.is_meta


def _forward(module: nn.Module, halves: dict[str, Tensor | None], *args: Any, **kwargs: Any) -> Tensor:
    """Run the class's forward pass; under autocast on the copies in place of the module's own weights."""
    own = module._parameters
    if not torch.is_autocast_enabled(own["weight"].device.type):
        return type(module).forward(module, *args, **kwargs)
    module.__dict__["_parameters"] = halves
    try:
        return type(module).forward(module, *args, **kwargs)
    finally:
        module.__dict__["_parameters"] = own
