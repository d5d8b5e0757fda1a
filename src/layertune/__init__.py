"""layertune: training-free layer selection for partial fine-tuning of language models.

    from layertune import score_layers, select_layers, freeze_all_but
    from layertune import fine_tune, LayerTuneClassifier, LayerSelection, load

Nothing heavy is imported until one of these names is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layertune.api import freeze_all_but, score_layers, select_layers
    from layertune.callbacks import LayerSelection
    from layertune.estimators import LayerTuneClassifier
    from layertune.fine_tuning import fine_tune
    from layertune.saved import load

__all__ = [
    "LayerSelection",
    "LayerTuneClassifier",
    "fine_tune",
    "freeze_all_but",
    "load",
    "score_layers",
    "select_layers",
]

_FOUND_IN = {
    "LayerSelection": "layertune.callbacks",
    "LayerTuneClassifier": "layertune.estimators",
    "fine_tune": "layertune.fine_tuning",
    "freeze_all_but": "layertune.api",
    "load": "layertune.saved",
    "score_layers": "layertune.api",
    "select_layers": "layertune.api",
}


def __getattr__(name: str) -> Any:
    if name in _FOUND_IN:
        return getattr(importlib.import_module(_FOUND_IN[name]), name)
    raise AttributeError(f"module layertune has no attribute {name}")
