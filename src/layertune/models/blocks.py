"""Where each architecture keeps its Transformer blocks, its final norm and its pooler.

transformers has no accessor for them. A table per `model_type` names the block list; a search by structure
checks the table, and stands in for it where an architecture is not listed.
"""

from __future__ import annotations

from torch import nn

from layertune.models.errors import ModelError

BLOCK_LISTS: dict[str, str] = {
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "deberta": "encoder.layer",
    "deberta-v2": "encoder.layer",
    "electra": "encoder.layer",
    "mpnet": "encoder.layer",
    "gpt2": "h",
    "gemma2": "layers",
    "llama": "layers",
}
FINAL_NORMS: dict[str, str] = {"gpt2": "ln_f", "gemma2": "norm", "llama": "norm"}

# Architectures whose blocks return a tuple; the states come first.
TUPLE_BLOCKS = frozenset({"mpnet"})

# Architectures without scaled-dot-product attention in some or all transformers 5 releases.
EAGER_ONLY = frozenset({"deberta", "deberta-v2", "gemma2", "mpnet"})


def find_layers(model: nn.Module, path: str | None = None) -> str:
    """Return the dotted path of the list of Transformer blocks inside a headless model.

    Args:
        model: a model of transformers without its task head; `model.config` says how many layers it has.
        path: the path to use instead of finding it (`model.layers` in the configuration).

    Raises:
        ModelError: no list, or more than one, has as many modules as the model has layers.
    """
    num_layers = model.config.num_hidden_layers
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    path = path or BLOCK_LISTS.get(model.config.model_type)
    if path is None and len(found) == 1:
        path = found[0]
    if path is None:
        raise ModelError(
            f"cannot tell where {type(model).__name__} holds its {num_layers} layers: set model.layers to "
            + (f"one of {', '.join(found)}." if found else "the dotted path of the list.")
        )
    if path not in found:
        raise ModelError(
            f"{type(model).__name__} holds no list of {num_layers} layers at model.layers={path}; "
            + (f"such a list is at {' and at '.join(found)}." if found else "no list has that length.")
        )
    return path
