"""A batch in parts whose losses add up to the loss of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from layertune.tasks.encode import IGNORED_LABEL, Batch


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
