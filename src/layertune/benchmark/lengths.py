"""Lengths of the tasks' examples, and batches drawn from them: what decides how much a step computes.

`lengths.json` counts training examples by their number of word pieces (BERT uncased, special tokens included,
cut to 256); of QNLI those of 8,421 rows stand for all 104,743. No text is needed to measure time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

from layertune.tasks import Split, TokenStore, epoch_batches

FIRST_TOKEN, LAST_TOKEN = 1000, 20000  # random tokens are drawn from here: ordinary words


@dataclass(frozen=True)
class TaskLengths:
    """Training examples of a task: how many there are, and the length of each (or of a sample)."""

    task: str
    examples: int
    lengths: np.ndarray

    @property
    def mean(self) -> float:
        """Mean length in tokens."""
        return float(self.lengths.mean())


@cache
def _known() -> dict[str, dict[str, list[int] | int]]:
    content: dict[str, dict[str, list[int] | int]] = json.loads(
        files("layertune.benchmark").joinpath("lengths.json").read_text()
    )
    return content


def task_lengths(task: str) -> TaskLengths:
    """Return the lengths of a task's training examples, in no particular order."""
    entry = _known()[task]
    lengths = np.repeat(np.arange(len(entry["counts"])), entry["counts"])
    return TaskLengths(task, int(entry["examples"]), np.random.default_rng(0).permutation(lengths))


def random_batches(lengths: np.ndarray, batch_size: int, seed: int) -> list[np.ndarray]:
    """Return the lengths of each batch of one epoch in random order."""
    order = np.random.default_rng(seed).permutation(lengths)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def bucketed_batches(lengths: np.ndarray, batch_size: int, seed: int) -> list[np.ndarray]:
    """Return the lengths of each batch of one epoch in layertune's order."""
    return [
        lengths[rows] for rows in epoch_batches(lengths, batch_size, seed=seed, epoch=1, task="benchmark")
    ]


def grouped_batches(lengths: np.ndarray, batch_size: int, seed: int) -> list[np.ndarray]:
    """Return the lengths of each batch of one epoch as `Trainer` groups them by length."""
    import torch
    from transformers.trainer_pt_utils import LengthGroupedSampler

    generator = torch.Generator().manual_seed(seed)
    sampler = LengthGroupedSampler(batch_size, lengths=lengths.tolist(), generator=generator)
    order = np.fromiter(sampler, np.int64, len(lengths))
    return [lengths[order[start : start + batch_size]] for start in range(0, len(order), batch_size)]


def typical(batches: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Pick whole batches, one of each of `count` parts of the epoch sorted by padded size.

    Each is the one that brings the mean size of those picked so far closest to that of their parts: the mean
    of all stands for the epoch's.
    """
    size = max(len(batch) for batch in batches)
    whole = sorted((batch for batch in batches if len(batch) == size), key=lambda batch: int(batch.max()))
    widths = np.array([int(batch.max()) for batch in whole])
    picked: list[np.ndarray] = []
    owed = 0.0  # by how much those picked so far are too narrow
    for number in range(count):  # where there are fewer batches than parts, some stand for several
        first = number * len(whole) // count
        part = np.arange(first, max(first + 1, (number + 1) * len(whole) // count))
        wanted = widths[part].mean() + owed
        best = part[np.abs(widths[part] - wanted).argmin()]
        picked.append(whole[best])
        owed = wanted - widths[best]
    return picked


def split_of(lengths: np.ndarray, max_length: int | None, seed: int = 0) -> Split:
    """Return random examples of these lengths, with random labels of two classes."""
    rng = np.random.default_rng(seed)
    store = TokenStore(
        ids=rng.integers(FIRST_TOKEN, LAST_TOKEN, int(lengths.sum())).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        segments=None,
        labels=rng.integers(0, 2, len(lengths)),
        truncated=0,
        pad_id=0,
        max_length=max_length,
    )
    return Split("benchmark", "train", store)
