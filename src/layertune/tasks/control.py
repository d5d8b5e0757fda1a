"""Controls of layer scores (`task.control`, `stage=score`): does a score read what the task says?

Each training text is replaced by as many unknown tokens, by as many random ones, or by a text of `task=demo`.
What a score still tells of the task then, it does not have from the words.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from layertune.errors import DataError
from layertune.tasks.encode import TokenStore
from layertune.tasks.rows import Rows
from layertune.tasks.synthetic import read_synthetic

SEED = 0  # of the random tokens: the same for every run


def with_other_texts(rows: Rows) -> Rows:
    """Return rows whose texts are those of `task=demo`, again from the first where they are too few."""
    texts = read_synthetic("train").texts[0]
    columns = [
        [texts[(row + shift) % len(texts)] for row in range(len(rows))] for shift in range(len(rows.texts))
    ]
    return replace(rows, texts=type(rows.texts)(columns))


def with_other_tokens(store: TokenStore, tokenizer: Any, control: str) -> TokenStore:
    """Return a split in which every token but the special ones is unknown, or drawn from the vocabulary.

    Args:
        store: the encoded texts.
        tokenizer: theirs.
        control: unk | random.

    Raises:
        DataError: the tokenizer has no token for what is unknown.
    """
    special = np.array(sorted(tokenizer.all_special_ids))
    words = ~np.isin(store.ids, special)
    if control == "unk":
        if tokenizer.unk_token_id is None:
            raise DataError(
                f"The tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no unknown token to "
                "put in place of every word (task.control=unk): take task.control=random."
            )
        ids = np.where(words, tokenizer.unk_token_id, store.ids)
    else:
        vocabulary = np.setdiff1d(np.arange(len(tokenizer)), special)
        drawn = np.random.default_rng(SEED).choice(vocabulary, size=len(store.ids))
        ids = np.where(words, drawn, store.ids)
    return replace(store, ids=ids.astype(store.ids.dtype))
