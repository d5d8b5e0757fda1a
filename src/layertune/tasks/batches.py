"""Which rows form a batch: length-bucketed, seeded, the same for every method of one seed.

Little padding is the cheapest speed-up there is, and it is given to all methods alike. The order depends on
the task, the seed, the batch size and the epoch, on nothing else: resuming an epoch needs no saved state.
"""

from __future__ import annotations

import hashlib

import numpy as np

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
