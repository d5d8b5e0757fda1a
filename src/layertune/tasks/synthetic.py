"""The built-in corpus behind `task=demo`: generated opinions whose label follows from structure, not words.

A clause joins an aspect and a word of praise or blame, which a negation turns round; of two contrasting
clauses one decides ("although A, B" means B). Words are balanced over the labels, so counting them does not
solve the task, and a frozen encoder with a trained head solves it in part only: layers have to be fine-tuned.
Nothing is downloaded.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from typing import TypeVar

import numpy as np

from layertune.errors import DataError
from layertune.tasks.rows import Rows

T = TypeVar("T")

SEED = 2024
SIZES = {"train": 2000, "validation": 500}
NEGATED_SHARE = 0.35  # of clauses
CONTRAST_SHARE = 0.6  # of sentences

_ASPECTS, _PRAISE, _BLAME = (
    words.split()
    for words in (
        "soup bread coffee curry menu plot acting ending script soundtrack room bed pool lobby staff "
        "screen battery camera keyboard speaker cover story hero prose chapter seat engine brake tour "
        "guide",
        "great superb lovely excellent delightful wonderful pleasant impressive brilliant fantastic "
        "charming good splendid outstanding enjoyable memorable",
        "terrible awful dreadful poor disappointing horrible unpleasant dull mediocre bad lousy weak "
        "shabby annoying boring forgettable",
    )
)
_NEGATIONS = ("not", "hardly", "far from", "anything but", "by no means", "never")
_DEGREES = ("", "", "", "really", "quite", "rather")
_OPENINGS = ("", "", "", "", "", "honestly ,", "this time ,", "for us ,")
_CLOSINGS = ("", "", "", "", "", "that day", "this year", "for everyone")
_SINGLE = ("{a}",)
# Frames of two clauses: {a} decides, {b} says the opposite.
_CONTRAST = (
    "{b} , but {a}",
    "{b} , yet {a}",
    "although {b} , {a}",
    "even though {b} , {a}",
    "{a} , although {b}",
    "{a} , even if {b}",
    "while {b} , {a}",
    "{b} ; nevertheless {a}",
)


def read_synthetic(split: str) -> Rows:
    """Return the generated rows of `train` or `validation`: the same on every machine, half of them positive.

    Raises:
        DataError: another split is asked for.
    """
    if split not in SIZES:
        raise DataError(f"The built-in corpus has the splits {', '.join(SIZES)}, not {split}.")
    texts, labels = _generate(sum(SIZES.values()))
    start = 0 if split == "train" else SIZES["train"]
    stop = start + SIZES[split]
    return Rows((texts[start:stop],), np.array(labels[start:stop], dtype=np.int64))


@cache
def _generate(count: int) -> tuple[list[str], list[int]]:
    rng = random.Random(SEED)
    seen: set[str] = set()
    texts: list[str] = []
    while len(texts) < count:
        label = len(texts) % 2
        sentence = _sentence(rng, positive=bool(label))
        if sentence not in seen:
            seen.add(sentence)
            texts.append(sentence)
    return texts, [i % 2 for i in range(count)]


def _sentence(rng: random.Random, positive: bool) -> str:
    first, second = _pick(rng, _ASPECTS), _pick(rng, _ASPECTS)
    frame = _pick(rng, _CONTRAST if rng.random() < CONTRAST_SHARE else _SINGLE)
    body = frame.format(a=_clause(rng, first, positive), b=_clause(rng, second, not positive))
    return " ".join(f"{_pick(rng, _OPENINGS)} {body} {_pick(rng, _CLOSINGS)} .".split())


def _clause(rng: random.Random, aspect: str, positive: bool) -> str:
    negated = rng.random() < NEGATED_SHARE
    word = _pick(rng, _PRAISE if positive != negated else _BLAME)
    return f"the {aspect} was {_pick(rng, _NEGATIONS if negated else _DEGREES)} {word}"


def _pick(rng: random.Random, items: Sequence[T]) -> T:
    """Choose one item by `random()` alone, the one method whose stream Python promises to keep."""
    return items[int(rng.random() * len(items))]
