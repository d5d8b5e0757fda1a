"""Texts replaced by unknown tokens, random ones, or another task's, by hand on a word-level tokenizer."""

from __future__ import annotations

import numpy as np
import pytest

from layertune.config import TaskSpec
from layertune.errors import DataError
from layertune.tasks.control import with_other_texts, with_other_tokens
from layertune.tasks.encode import encode
from layertune.tasks.rows import Rows
from layertune.tasks.synthetic import read_synthetic

PAIRS = Rows((["a b", "c"], ["c", "a a a"]), np.array([0, 1]))
SPEC = TaskSpec(name="toy", labels=("no", "yes"), columns=("sentence1", "sentence2"))


def test_every_word_becomes_unknown_and_lengths_and_separators_stay(encoder_tokenizer):
    store = encode(PAIRS, encoder_tokenizer, SPEC)
    assert store.ids.tolist() == [2, 4, 5, 3, 6, 3, 2, 6, 3, 4, 4, 4, 3]  # [CLS] a b [SEP] c [SEP] ...
    found = with_other_tokens(store, encoder_tokenizer, "unk")
    unknown = encoder_tokenizer.unk_token_id
    assert found.ids.tolist() == [2, unknown, unknown, 3, unknown, 3, 2, unknown, 3, *[unknown] * 3, 3]
    assert found.offsets is store.offsets
    assert found.content_sha256() != store.content_sha256()  # scores kept on disk are not mistaken


def test_random_tokens_are_words_of_the_vocabulary_and_the_same_each_time(encoder_tokenizer):
    store = encode(PAIRS, encoder_tokenizer, SPEC)
    found = with_other_tokens(store, encoder_tokenizer, "random")
    special = np.isin(store.ids, encoder_tokenizer.all_special_ids)
    assert found.ids[special].tolist() == store.ids[special].tolist()
    assert not np.isin(found.ids[~special], encoder_tokenizer.all_special_ids).any()
    assert found.ids.tolist() == with_other_tokens(store, encoder_tokenizer, "random").ids.tolist()


def test_other_texts_are_those_of_the_generated_task_and_labels_stay():
    texts = read_synthetic("train").texts[0]
    found = with_other_texts(PAIRS)
    assert [list(column) for column in found.texts] == [list(texts[:2]), list(texts[1:3])]
    assert found.labels.tolist() == [0, 1]
    many = with_other_texts(Rows((["x"] * (len(texts) + 1),), np.zeros(len(texts) + 1, dtype=np.int64)))
    assert many.texts[0][-1] == texts[0]


def test_a_tokenizer_without_an_unknown_token_is_told_what_to_take(encoder_tokenizer):
    store = encode(PAIRS, encoder_tokenizer, SPEC)
    encoder_tokenizer.unk_token = None
    with pytest.raises(DataError, match="random"):
        with_other_tokens(store, encoder_tokenizer, "unk")
