"""The distinct meaning representations of a generation split: each gets one output, scored against all its
references.

Representations are told apart by their exact text and keep the order of their first appearance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from layertune.errors import DataError
from layertune.tasks.rows import Place, Rows


@dataclass(frozen=True)
class Meanings:
    """The distinct representations of a split, in order of first appearance.

    Attributes:
        texts: [m] representations.
        references: [m] all references of each, as they stand in the data.
        rows: [m] row of the split where each appears first.
    """

    texts: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)


def group_meanings(rows: Rows) -> Meanings:
    """Group rows of (representation, reference) by representation."""
    references: dict[str, list[str]] = {}
    first: list[int] = []
    for row, (text, reference) in enumerate(zip(*rows.texts, strict=True)):
        if text not in references:
            references[text] = []
            first.append(row)
        references[text].append(reference)
    return Meanings(
        tuple(references), tuple(map(tuple, references.values())), np.array(first, dtype=np.int64)
    )


def first_meanings(rows: Rows, limit: int | None) -> Rows:
    """Return the rows of the first `limit` distinct representations, in order; None = all."""
    if limit is None:
        return rows
    kept = dict.fromkeys(rows.texts[0])
    if len(kept) <= limit:
        return rows
    chosen = set(list(kept)[:limit])
    return rows.take(np.array([row for row, text in enumerate(rows.texts[0]) if text in chosen]))


def split_off_meanings(rows: Rows, count: int, seed: int) -> tuple[Rows, Rows]:
    """Return (the rest, at most `count` rows): all rows of representations drawn at random.

    No representation is on both sides. Both sides keep their original order.
    """
    grouped = group_meanings(rows)
    order = np.random.RandomState(seed).permutation(len(grouped))
    sizes = np.array([len(grouped.references[i]) for i in order])
    number = max(1, int(np.searchsorted(np.cumsum(sizes), count, side="right")))
    drawn = {grouped.texts[i] for i in order[:number]}
    held = np.array([text in drawn for text in rows.texts[0]])
    return rows.take(np.flatnonzero(~held)), rows.take(np.flatnonzero(held))


def check_meanings(rows: Rows, where: Place, expected: int | None) -> None:
    """Check that no text is empty, and the number of distinct representations where it was announced.

    Raises:
        DataError: a row without words on one side, or another number.
    """
    for row, texts in enumerate(zip(*rows.texts, strict=True)):
        if not all(text.strip() for text in texts):
            raise DataError(f"{where.row(row)} has an empty representation or reference.")
    found = len(set(rows.texts[0]))
    if expected is not None and found != expected:
        raise DataError(
            f"{where} has {found:,} distinct meaning representations and {expected:,} are expected: "
            "not the announced data."
        )
