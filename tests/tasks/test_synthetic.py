"""The built-in corpus: balanced, without leaks, and not solved by counting words."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from layertune.errors import DataError
from layertune.tasks.synthetic import read_synthetic


@pytest.fixture(scope="module")
def corpus():
    return {split: read_synthetic(split) for split in ("train", "validation")}


def test_no_sentence_stands_in_both_splits_or_twice(corpus):
    train, validation = (list(corpus[split].texts[0]) for split in ("train", "validation"))
    assert len(train) >= 2000 and len(validation) >= 500
    assert len(set(train)) == len(train) and set(train).isdisjoint(validation)


def test_labels_are_balanced(corpus):
    for rows in corpus.values():
        assert rows.labels.mean() == 0.5


def test_a_bag_of_words_stays_below_seventy_percent(corpus):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    words = CountVectorizer(token_pattern=r"\S+")
    model = LogisticRegression(max_iter=1000).fit(
        words.fit_transform(corpus["train"].texts[0]), corpus["train"].labels
    )
    found = model.score(words.transform(corpus["validation"].texts[0]), corpus["validation"].labels)
    assert found <= 0.70


def test_every_call_gives_the_same_rows(corpus):
    again = read_synthetic("train")
    assert list(again.texts[0]) == list(corpus["train"].texts[0])
    assert np.array_equal(again.labels, corpus["train"].labels)


def test_negation_and_contrast_stand_on_both_sides(corpus):
    marks = collections.Counter()
    for text, label in zip(corpus["train"].texts[0], corpus["train"].labels, strict=True):
        marks["not", int(label)] += " not " in text
        marks["but", int(label)] += " but " in text
    assert all(marks[word, label] > 30 for word in ("not", "but") for label in (0, 1))


def test_another_split_is_refused():
    with pytest.raises(DataError, match="train, validation"):
        read_synthetic("test")
