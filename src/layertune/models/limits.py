"""What a model can read: how many token ids and how many positions its modules hold."""

from __future__ import annotations

import re

from torch import nn

from layertune.errors import ModelError

_POSITIONS = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?|positions_embed)$")


def num_embeddings(model: nn.Module) -> int | None:
    """Return how many token ids a headless model knows; None where it has no table of them."""
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    weight = getattr(table, "weight", None)
    return None if weight is None or weight.ndim != 2 else int(weight.shape[0])


def usable_positions(model: nn.Module) -> int | None:
    """Return the longest input of a headless model in tokens; None where nothing limits it.

    The configuration names a number, of which RoBERTa's kind keep the first for themselves: those up to the
    padding id, which their table of positions is told (`padding_idx`).
    """
    named = getattr(model.config, "max_position_embeddings", None)
    limits = [] if not isinstance(named, int) or named < 1 else [named]
    for name, table in model.named_modules():
        weight = getattr(table, "weight", None)
        if _POSITIONS.search(name) and weight is not None and weight.ndim == 2:
            padding = getattr(table, "padding_idx", None)
            reserved = getattr(table, "offset", 0) if padding is None else padding + 1
            limits.append(int(weight.shape[0]) - reserved)
    return min(limits, default=None)


def refuse_what_does_not_fit(model: nn.Module, largest_id: int, longest: int) -> None:
    """Refuse token ids or lengths that a headless model has no embeddings for.

    Raises:
        ModelError: the tokenizer is another model's, or inputs are longer than the model's positions.
    """
    known, positions = num_embeddings(model), usable_positions(model)
    if known is not None and largest_id >= known:
        raise ModelError(
            f"the texts hold token {largest_id} and {type(model).__name__} knows {known}: the tokenizer "
            "belongs to another model, or has tokens for which the embeddings were not resized."
        )
    if positions is not None and longest > positions:
        raise ModelError(
            f"the longest input has {longest} tokens and {type(model).__name__} has {positions} positions: "
            "cut the texts (max_length)."
        )
