"""Lengths of the tasks' examples, and batches drawn from them: what decides how much a step computes.

`lengths.json` counts training examples by their number of word pieces (BERT uncased, special tokens included,
cut to 256); of QNLI those of 8,421 rows stand for all 104,743. No text is needed to measure time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from layertune.tasks import Split, TokenStore, epoch_batches

FIRST_TOKEN, LAST_TOKEN = 1000, 20000  # random tokens are drawn from here: ordinary words
KNOWN = json.loads(Path(__file__).with_suffix(".json").read_text())
Order = Callable[[np.ndarray, int, int], list[np.ndarray]]  # lengths, batch size, seed -> lengths by batch


@dataclass(frozen=True)
class TaskLengths:
    """Training examples of a task: how many there are, and the length of each (or of a sample)."""

    task: str
    examples: int
    lengths: np.ndarray

    @property
    def facts(self) -> dict[str, str | int | float]:
        """What the result file says of the task."""
        return {
            "task": self.task,
            "examples": self.examples,
            "mean_tokens": round(float(self.lengths.mean()), 2),
        }


def task_lengths(task: str) -> TaskLengths:
    """Return the lengths of a task's training examples, in no particular order."""
    counts = KNOWN[task]["counts"]
    lengths = np.repeat(np.arange(len(counts)), counts)
    return TaskLengths(task, KNOWN[task]["examples"], np.random.default_rng(0).permutation(lengths))


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


def across(pools: list[list[np.ndarray]], count: int) -> list[np.ndarray]:
    """Pick whole batches of widths that are spread evenly over those of all pools, each of equal weight.

    Args:
        pools: batches of each task.
        count: how many; their widths lie between the 5th and the 95th percentile, both among them.
    """
    whole = [[batch for batch in pool if len(batch) == max(map(len, pool))] for pool in pools]
    batches = [batch for pool in whole for batch in pool]
    weight = np.array([1.0 / len(pool) for pool in whole for _ in pool])
    order = np.argsort(widths_of(batches), kind="stable")
    reached = np.cumsum(weight[order]) / weight.sum()
    wanted = np.linspace(0.05, 0.95, count) if count > 1 else np.array([0.5])
    places = np.minimum(np.searchsorted(reached + 1e-9, wanted), len(order) - 1)
    return [batches[order[place]] for place in places]


def widths_of(batches: list[np.ndarray]) -> np.ndarray:
    """Return the padded width of each batch."""
    return np.array([int(batch.max()) for batch in batches])


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
