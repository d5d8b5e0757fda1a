"""Canonical rows of one split: texts and labels, their fingerprint, and seeded cuts (held-out part, subset).

Every source (hub, local folder, generator) ends in `Rows`; everything after it sees nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Place:
    """Where rows come from, for messages: a file or a split on the hub, and the lines of a text file.

    Attributes:
        name: the file, or the hub id and split.
        lines: [n] line of each row; empty where rows have none.
    """

    name: str
    lines: Sequence[int] = ()

    def __str__(self) -> str:
        return self.name

    def row(self, row: int) -> str:
        """Name the row at this position, counted from 1, and its line."""
        line = f" (line {self.lines[row]})" if self.lines else ""
        return f"{self.name}: row {row + 1}{line}"


@dataclass(frozen=True)
class Rows:
    """The rows of one split in canonical form.

    Attributes:
        texts: one sequence of n strings per text column (one for sentences, two for pairs).
        labels: [n] int64 class ids in the task's canonical order, or [n] float32 gold scores.
    """

    texts: tuple[Sequence[str], ...]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Rows:
        """Return the rows at these positions, in this order."""
        return Rows(tuple([column[i] for i in indices] for column in self.texts), self.labels[indices])

    def fingerprint(self) -> str:
        """Return the sha256 over texts and labels, in order: the same rows from any source agree."""
        digest = hashlib.sha256()
        for *texts, label in zip(*self.texts, self.labels, strict=True):
            parts = [*(text.encode("utf-8", "surrogatepass") for text in texts), str(label).encode()]
            digest.update(b"".join(b"%d:%b" % (len(part), part) for part in parts))
        return digest.hexdigest()


def unlabelled(texts: tuple[Sequence[str], ...]) -> Rows:
    """Return rows of text alone; their label is 0 throughout."""
    return Rows(texts, np.zeros(len(texts[0]), dtype=np.int64))


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Join the rows of several splits, in order."""
    columns = zip(*(part.texts for part in parts), strict=True)
    return Rows(
        tuple([text for column in same for text in column] for same in columns),
        np.concatenate([part.labels for part in parts]),
    )


def draw(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose `count` positions at random, ascending; classes keep their proportions (largest remainders).

    Args:
        labels: [n] int64 (stratified) or float32 (plain draw).
        count: how many, at most n.
        seed: of the legacy numpy generator, whose stream never changes between numpy versions.

    Raises:
        ValueError: more positions asked for than there are.
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"cannot draw {count} of {len(labels)} rows")
    rng = np.random.RandomState(seed)
    if labels.dtype.kind == "f":
        return np.sort(rng.permutation(len(labels))[:count])
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * (count / len(labels))
    quotas = np.floor(exact).astype(int)
    by_remainder = np.argsort(quotas - exact, kind="stable")  # largest remainder first, then the lower class
    quotas[by_remainder[: count - quotas.sum()]] += 1
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def subset(rows: Rows, limit: int | None, seed: int = 0) -> Rows:
    """Return at most `limit` rows: the same ones for every run, classes in their proportions, order kept."""
    if limit is None or len(rows) <= limit:
        return rows
    return rows.take(draw(rows.labels, limit, seed))


def split_off(rows: Rows, count: int, seed: int) -> tuple[Rows, Rows]:
    """Return (the rest, a stratified draw of `count` rows), both in their original order."""
    drawn = draw(rows.labels, count, seed)
    rest = np.setdiff1d(np.arange(len(rows)), drawn, assume_unique=True)
    return rows.take(rest), rows.take(drawn)
