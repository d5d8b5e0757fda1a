"""Which rows form a batch, and a batch in parts whose losses add up to the loss of the whole.

Batches are length-bucketed and seeded, the same for every method of one seed: little padding is the cheapest
speed-up there is, and it is given to all methods alike. The order depends on the task, the seed, the batch
size and the epoch, on nothing else: resuming an epoch needs no saved state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import numpy as np

from layertune.tasks.encode import IGNORED_LABEL, Batch

CHUNK_BATCHES = 50  # rows are sorted by length inside chunks of so many batches, so batches stay random


def epoch_batches(
    lengths: np.ndarray, batch_size: int, *, seed: int, epoch: int, task: str
) -> list[np.ndarray]:
    """Return the batches of one epoch: every row once, rows of a batch alike in length, order random.

    Shuffle, cut into chunks of 50 batches, sort inside a chunk by length, cut into batches, shuffle those.
    One batch is smaller where the rows do not divide; which lengths it holds is random too.

    Args:
        lengths: [n] tokens per row.
        batch_size: rows per batch.
        seed: the run's seed.
        epoch: counted from 0 or 1, as the caller likes.
        task: name of the data set.

    Returns:
        Arrays of row numbers.
    """
    lengths = np.asarray(lengths)
    digest = hashlib.sha256(f"{task}|{seed}|{batch_size}|{epoch}".encode()).digest()
    rng = np.random.RandomState(np.frombuffer(digest, dtype="<u4"))  # the legacy stream never changes
    order = rng.permutation(len(lengths))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), CHUNK_BATCHES * batch_size):
        chunk = order[start : start + CHUNK_BATCHES * batch_size]
        chunk = chunk[np.argsort(lengths[chunk], kind="stable")]
        whole, rest = divmod(len(chunk), batch_size)
        sizes = np.full(whole, batch_size)
        if rest:
            sizes = np.insert(sizes, rng.randint(whole + 1), rest)
        batches += np.split(chunk, np.cumsum(sizes)[:-1])
    return [batches[i] for i in rng.permutation(len(batches))]


def sorted_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return batches for evaluation and scoring: longest rows first, so that memory peaks at once."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def loss_terms(batch: Batch) -> int:
    """Return how many terms a batch's mean loss is over: its rows, in generation its target tokens."""
    if batch.labels.ndim == 1:
        return len(batch)
    return int((batch.labels[:, 1:] != IGNORED_LABEL).sum())


def in_parts(
    gather: Callable[[np.ndarray], Batch], rows: np.ndarray, size: int | None, generated: bool
) -> Iterator[tuple[Batch, float]]:
    """Cut a batch into parts of `size` rows (None = one part), each with its share in the batch's mean loss.

    The mean is over rows, in generation over target tokens.
    """
    size = size or len(rows)
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(parts) == 1 or not generated:
        yield from ((gather(part), len(part) / len(rows)) for part in parts)
        return
    batches = [gather(part) for part in parts]
    targets = [loss_terms(part) for part in batches]
    yield from ((part, count / sum(targets)) for part, count in zip(batches, targets, strict=True))
