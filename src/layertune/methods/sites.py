"""Where methods find their modules in a block, as `layertune.models.architectures` knows it, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator

from torch import nn

from layertune.config import ModelSpec
from layertune.config.weights import weights_folder
from layertune.errors import ConfigError
from layertune.models import Backbone
from layertune.models.architectures import ARCHITECTURES, Sites, architecture_of, type_named_by


def sites_of(model_type: str, method: str) -> Sites:
    """Return the sites of an architecture.

    Raises:
        ConfigError: they are not known.
    """
    sites = architecture_of(model_type).sites
    if sites is None:
        known = sorted(name for name, architecture in ARCHITECTURES.items() if architecture.sites)
        raise ConfigError(
            f"method={method} does not know where {model_type} keeps its projections: it works with "
            f"{', '.join(known)}; another needs a line in layertune.models.architectures."
        )
    return sites


def blocks_at(backbone: Backbone, path: str) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield every block of a backbone with its module at `path`, first to last."""
    for block in backbone.layers:
        yield block, block.get_submodule(path)


def known_type(model: ModelSpec) -> str | None:
    """Return the `model_type` of a model as far as it can be told without the hub or the weights."""
    folder = weights_folder(model)
    if folder is not None:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model.random_config is not None:
        return model.random_config.get("model_type")
    return type_named_by(model.source)
