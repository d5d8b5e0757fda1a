"""layertune: training-free layer selection for partial fine-tuning of language models.

    from layertune import score_layers, select_layers, freeze_all_but
    layertune.load(folder)                  # a model that a run has kept

Nothing heavy is imported until one of these names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layertune.api import freeze_all_but, score_layers, select_layers
    from layertune.saved import load

__all__ = ["freeze_all_but", "load", "score_layers", "select_layers"]

_FOUND_IN = {
    "freeze_all_but": "layertune.api",
    "load": "layertune.saved",
    "score_layers": "layertune.api",
    "select_layers": "layertune.api",
}


def __getattr__(name: str) -> Any:
    if name in _FOUND_IN:
        return getattr(importlib.import_module(_FOUND_IN[name]), name)
    raise AttributeError(f"module layertune has no attribute {name}")
