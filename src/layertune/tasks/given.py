"""What a caller of the public functions gives, as batches: texts with a tokenizer, or batches of one's own.

Texts take the way of a run's rows (`layertune.tasks.encode`): the same text has the same tokens wherever it
enters, or is refused in the same sentence.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from layertune.config import TaskSpec
from layertune.errors import ConfigError, DataError
from layertune.tasks.batches import sorted_batches
from layertune.tasks.encode import Batch, TokenStore, encode
from layertune.tasks.labels import text_column
from layertune.tasks.rows import Place, unlabelled

Text = str | tuple[str, str]
READ = ("input_ids", "attention_mask", "token_type_ids", "labels")  # of a batch of transformers


def text_columns(texts: Iterable[Text], names: Sequence[str] = ()) -> tuple[Sequence[str], ...]:
    """Return texts as one column, or pairs of texts as two.

    Args:
        texts: strings, or pairs (tuples) of strings; a single string is one text.
        names: of the columns, where it is known how many there are.

    Raises:
        DataError: there is none, or one that is not like the others or like the names.
    """
    is_table = hasattr(texts, "keys") and not hasattr(texts, "tolist")  # a mapping, a data frame
    if not isinstance(texts, Iterable) or isinstance(texts, bytes) or is_table:
        raise DataError(
            f"the texts are a {type(texts).__name__}: give a list of strings, or of pairs of strings."
        )
    rows = [texts] if isinstance(texts, str) else list(texts)
    if not rows:
        raise DataError("no text is given: the list of texts is empty.")
    pairs = [row if isinstance(row, tuple) else (row,) for row in rows]
    width = len(names) or len(pairs[0])
    odd = next((i for i, row in enumerate(pairs) if len(row) != width or len(row) > 2 or not row), None)
    odd = next((i for i, row in enumerate(rows) if isinstance(row, list)), odd)
    if odd is not None:
        known = {0: "a string, or all are pairs (tuples of two strings)", 1: "a string", 2: "a pair (tuple)"}
        raise DataError(
            f"text {odd + 1} is {rows[odd]!r:.80}: a text is {known[len(names)]}; join a list of words first "
            '(" ".join(words)).'
        )
    titles = names or (("text",) if width == 1 else ("first text", "second text"))
    return tuple(
        text_column(column, title, Place("texts"))
        for column, title in zip(zip(*pairs, strict=True), titles, strict=True)
    )


def encode_texts(
    tokenizer: Any,
    texts: Iterable[Text],
    max_length: int,
    positions: int | None,
    segment_ids: Literal["standard", "zeros"] = "standard",
) -> TokenStore:
    """Tokenise texts, or pairs of texts, as the rows of a task.

    Args:
        tokenizer: of transformers.
        texts: strings, or pairs of strings.
        max_length: longer ones are cut to this many tokens,
        positions: and to as many as the model can read; None = any.
        segment_ids: the tokenizer's own, or zeros throughout.

    Raises:
        DataError: there is none, or one that is neither a string nor a pair of strings.
    """
    if not hasattr(tokenizer, "num_special_tokens_to_add"):
        raise DataError(
            f"(tokenizer, texts) begins with a tokenizer of transformers; given: {type(tokenizer).__name__}."
        )
    if not isinstance(max_length, int):
        raise DataError(f"max_length={max_length} is not allowed: a number of tokens.")
    columns = text_columns(texts)
    length = max_length if positions is None else min(max_length, positions)
    return encode(unlabelled(columns), tokenizer, TaskSpec(max_length=length, segment_ids=segment_ids))


def batches_of_store(store: TokenStore, batch_size: int, known: int | None, padding: int) -> Iterator[Batch]:
    """Return all examples in batches, longest first.

    Args:
        store: the examples.
        batch_size: per batch.
        known: how many token ids the model has; None = any.
        padding: fills up batches where the tokenizer's padding is none of them; it is masked.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} is not allowed: at least 1.")
    if known is not None and store.pad_id >= known:
        store = replace(store, pad_id=padding)
    return (store.batch(indices) for indices in sorted_batches(store.lengths, batch_size))


def batch_of_mapping(given: Any, accepted: Collection[str], known: int | None, padding: int) -> Batch:
    """Return a batch of transformers (a dictionary of tensors, arrays or lists) as one of ours.

    Args:
        given: with `input_ids` and `attention_mask` [B, T], padded on the right.
        accepted: names of what the model's forward takes; of those only the usual ones are handed on.
        known: how many token ids the model has; None = any.
        padding: takes the place of a masked id that is none of them.

    Raises:
        ConfigError: it is none, is padded on the left, or holds what cannot be handed on.
    """
    if not isinstance(given, Mapping) or "input_ids" not in given:
        raise ConfigError(
            f"score_layers needs dictionaries with input_ids and got {type(given).__name__}: "
            "use a DataLoader with a collator of transformers, or give (tokenizer, texts)."
        )
    more = [key for key in given if key in accepted and key not in READ and given[key] is not None]
    if more:
        raise ConfigError(
            f"a batch holds {', '.join(more)}, which score_layers does not hand on: leave it out."
        )
    ids = _tensor(given, "input_ids")
    if ids.ndim != 2 or not ids.numel() or ids.is_floating_point():
        raise ConfigError(
            f"input_ids are {ids.dtype} {list(ids.shape)}: integers [batch, tokens] are needed."
        )
    mask = torch.ones_like(ids) if given.get("attention_mask") is None else _tensor(given, "attention_mask")
    segments = None if given.get("token_type_ids") is None else _tensor(given, "token_type_ids")
    for name, tensor in {"attention_mask": mask, "token_type_ids": segments}.items():
        if tensor is not None and tensor.shape != ids.shape:
            raise ConfigError(f"{name} is {list(tensor.shape)} and input_ids are {list(ids.shape)}.")
    mask = mask.to(torch.int64)
    if not mask[:, 0].all() or (mask[:, 1:] > mask[:, :-1]).any():
        raise ConfigError(
            "the batches are padded on the left, or have gaps in their attention_mask: "
            "set tokenizer.padding_side = 'right'."
        )
    unknown = (ids < 0) | (ids >= (known or ids.max() + 1))
    if (unknown & mask.bool()).any():
        raise ConfigError(f"the batches hold token ids that the model, with {known} of them, does not know.")
    labels = None if given.get("labels") is None else _tensor(given, "labels")
    return Batch(
        input_ids=ids.to(torch.int64).masked_fill(unknown, padding),
        attention_mask=mask,
        labels=torch.zeros(len(ids), dtype=torch.int64) if labels is None else labels,
        segment_ids=segments,
        indices=np.arange(len(ids)),
    )


def _tensor(given: Mapping[str, Any], name: str) -> Tensor:
    try:
        return torch.as_tensor(given[name])
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{name} of a batch is no table of numbers (rows of unequal length?): padding=True makes it one."
        ) from error
