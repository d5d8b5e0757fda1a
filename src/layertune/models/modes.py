"""How a model stands while it is only read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def scoring_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for the length of a scoring pass; every module returns to the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
