"""layertune: training-free layer selection for partial fine-tuning of language models.

    from layertune import score_layers, select_layers, freeze_all_but

Nothing heavy is imported until one of these names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layertune.api import freeze_all_but, score_layers, select_layers

__all__ = ["freeze_all_but", "score_layers", "select_layers"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("layertune.api"), name)
    raise AttributeError(f"module layertune has no attribute {name}")
