"""What a model does, asked of the model itself: three made-up tokens run through it before anything is read.

So a model that is none of text, or whose layers cannot be told apart, is refused before the work, in one
sentence, and what transformers has no accessor for (causality, the order of axes) needs no list of names.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from layertune.errors import ModelError, message_of
from layertune.models.backbone import scoring_mode
from layertune.models.limits import num_embeddings
from layertune.tasks.encode import Batch

if TYPE_CHECKING:
    from layertune.models.backbone import Backbone

_SAME = 1e-4  # of a state's length; a token that is seen moves even a random model's thirty times as far


def probe(backbone: Backbone) -> bool:
    """Run two rows that differ in their last token; return whether no earlier token saw it: causality.

    The model and the global random state are left as they were.

    Raises:
        ModelError: the model cannot be run on token ids alone, or its layers do not hand their states to
            each other.
    """
    first, second, third, other = _four_tokens(backbone.model)
    rows = torch.tensor([[first, second, third], [first, second, other]], device=backbone.device)
    batch = Batch(rows, torch.ones_like(rows), rows[:, 0], None, np.arange(2))
    given: dict[int, Tensor] = {}
    left: dict[int, Tensor] = {}

    def keep(layer: int, before: Tensor, after: Tensor) -> None:
        given[layer], left[layer] = before, after

    with torch.no_grad(), torch.random.fork_rng(devices=[]), scoring_mode(backbone):
        try:
            with _attention_kept(backbone.model):
                backbone.run(batch, keep)
        except (ModelError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            raise ModelError(
                f"{type(backbone.model).__name__} cannot be run on the tokens of a text alone: "
                f"{message_of(error)}"
            ) from error
    for layer in range(1, backbone.num_layers):
        if not torch.equal(left[layer], given[layer + 1]):
            raise ModelError(
                f"what layer {layer} of {type(backbone.model).__name__} leaves is not what layer {layer + 1} "
                f"is given: {backbone.layers_path} is not its list of layers, or more is done between them."
            )
    one, two = left[backbone.num_layers][:, 0]
    return bool((one - two).norm() <= _SAME * one.norm())


@contextmanager
def _attention_kept(model: nn.Module) -> Iterator[None]:
    """BigBird gives up its sparse attention for good when it is shown a short input: not for ours."""
    kind = getattr(model, "attention_type", None)
    try:
        yield
    finally:
        if kind is not None and kind != getattr(model, "attention_type", None):
            model.set_attention_type(kind)


def _four_tokens(model: nn.Module) -> list[int]:
    """Return token ids for made-up rows: different ones, and none that pads."""
    known = num_embeddings(model) or getattr(model.config, "vocab_size", None)
    if not isinstance(known, int):
        raise ModelError(f"{type(model).__name__} has no embeddings of tokens: it is no model of text.")
    ids = [token for token in range(min(known, 64)) if token != getattr(model.config, "pad_token_id", None)]
    return (ids * 4)[-4:]
