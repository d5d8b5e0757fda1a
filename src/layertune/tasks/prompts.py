"""Meaning representation + reference -> token ids, with the place where the reference begins (E2E, §4.1).

Choice: [E2E, text] the paper names no format; `code` is that of the released code, `lora` that of LoRA's own
experiments. Both sides are tokenised apart, in training and in decoding alike:

    code   representation, space, <eos>, reference, space, <eos>     (each space a token of its own)
    lora   "name : Blue Spice | Type : pub", <eos>, space + reference, <eos>
"""

from __future__ import annotations

import re
from itertools import chain
from typing import Any

import numpy as np

from layertune.config import TaskSpec
from layertune.errors import DataError
from layertune.tasks.encode import TokenStore, padding_id
from layertune.tasks.rows import Rows

_SLOT = re.compile(r"\s*([^,\[\]]+)\[([^\]]*)\]")
# How LoRA's data set (Li & Liang's) calls the slots of the challenge.
_LORA_NAMES = {"eatType": "Type", "priceRange": "price", "familyFriendly": "family friendly"}
_CHUNK = 2000  # rows per call of the tokenizer


def prompt_text(meaning: str, style: str) -> str:
    """Return what stands before the first end-of-sequence token.

    Raises:
        DataError: `lora`, and the representation is not a list of slots.
    """
    if style == "code":
        return f"{meaning} "
    slots = _SLOT.findall(meaning)
    if not slots:
        raise DataError(f"{meaning!r} is no list of slots such as 'name[Blue Spice], eatType[pub]'.")
    return " | ".join(f"{_LORA_NAMES.get(name, name)} : {value}" for name, value in slots)


def reference_text(reference: str, style: str) -> str:
    """Return what stands between the two end-of-sequence tokens."""
    return f"{reference} " if style == "code" else f" {reference}"


def encode_generation(rows: Rows, tokenizer: Any, spec: TaskSpec) -> TokenStore:
    """Tokenise pairs; `prompts` says how many tokens of each row are not learnt.

    The final end-of-sequence token is learnt, although padding may have the same id. Longer rows are cut at
    the right, as in the released code; a representation that alone is too long loses its last words, never
    its separator, and leaves room for one token to learn.

    Raises:
        DataError: the tokenizer has no end-of-sequence token.
    """
    end = tokenizer.eos_token_id
    if end is None:
        raise DataError(f"task={spec.name} needs a tokenizer with an end-of-sequence token to learn.")
    meanings, references = rows.texts
    start = _leading(tokenizer)
    room = spec.max_length - len(start) - 2  # the separator, and one token to learn
    heads = dict(_tokenised(dict.fromkeys(meanings), tokenizer, prompt_text, spec))
    ids: list[list[int]] = []
    prompts = np.empty(len(rows), dtype=np.int32)
    truncated = 0
    answers = _tokenised(references, tokenizer, reference_text, spec)
    for row, (meaning, (_, answer)) in enumerate(zip(meanings, answers, strict=True)):
        prompt = [*start, *heads[meaning][:room], end]
        whole = [*prompt, *answer, end]
        truncated += len(heads[meaning]) > room or len(whole) > spec.max_length
        prompts[row] = len(prompt)
        ids.append(whole[: spec.max_length])
    lengths = np.fromiter(map(len, ids), np.int64, len(ids))
    return TokenStore(
        ids=np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        segments=None,
        labels=rows.labels,
        truncated=truncated,
        pad_id=padding_id(tokenizer),
        max_length=spec.max_length,
        prompts=prompts,
    )


def _leading(tokenizer: Any) -> list[int]:
    """Return what a tokenizer puts before every text: a beginning-of-sequence token, or nothing."""
    ids = tokenizer("", return_attention_mask=False, return_token_type_ids=False)["input_ids"]
    return [token for token in ids[:1] if token == tokenizer.bos_token_id]


def _tokenised(texts: Any, tokenizer: Any, text_of: Any, spec: TaskSpec) -> Any:
    """Yield (text, token ids) in order, nothing added around a text."""
    texts = list(texts)
    for first in range(0, len(texts), _CHUNK):
        chunk = texts[first : first + _CHUNK]
        encoded = tokenizer([text_of(text, spec.format) for text in chunk], add_special_tokens=False)
        yield from zip(chunk, encoded["input_ids"], strict=True)
