"""Batch order: complete, seeded, length-bucketed."""

from __future__ import annotations

import random

import numpy as np
import pytest

from layertune.tasks.batches import epoch_batches, sorted_batches


def sentence_lengths(count: int = 7000, mean: float = 3.7) -> np.ndarray:
    """Lengths as sentence pairs have them: log-normal, median e^3.7 = 40 tokens, a long tail."""
    lengths = np.random.RandomState(1).lognormal(mean, 0.45, count).astype(int)
    return lengths.clip(4, 256)


def padded(batches: list[np.ndarray], lengths: np.ndarray, multiple: int) -> int:
    return sum(len(batch) * (-(-lengths[batch].max() // multiple) * multiple) for batch in batches)


@pytest.mark.parametrize(("count", "batch_size"), [(1, 32), (31, 32), (32, 32), (1600, 32), (3333, 16)])
def test_every_row_comes_exactly_once(count, batch_size):
    lengths = sentence_lengths(count)
    batches = epoch_batches(lengths, batch_size, seed=0, epoch=1, task="sst2")
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    sizes = sorted(len(batch) for batch in batches)
    assert len(sizes) == -(-count // batch_size)
    assert sizes[1:] == [batch_size] * (len(sizes) - 1)


def test_padding_costs_at_most_a_tenth():
    lengths = sentence_lengths()
    batches = epoch_batches(lengths, 32, seed=0, epoch=1, task="sst2")
    assert padded(batches, lengths, 1) / lengths.sum() <= 1.1
    assert padded(batches, lengths, 8) / lengths.sum() <= 1.2
    shuffled = np.array_split(np.random.RandomState(0).permutation(len(lengths)), len(batches))
    assert padded(shuffled, lengths, 1) / lengths.sum() > 1.8


def test_the_order_is_a_function_of_its_arguments_alone():
    lengths = sentence_lengths(1000)
    first = epoch_batches(lengths, 32, seed=42, epoch=3, task="sst2")
    np.random.seed(7)
    random.seed(7)
    second = epoch_batches(lengths, 32, seed=42, epoch=3, task="sst2")
    assert [batch.tolist() for batch in first] == [batch.tolist() for batch in second]


def test_asking_for_an_order_leaves_global_random_state_alone():
    np.random.seed(7)
    expected = np.random.rand()
    np.random.seed(7)
    epoch_batches(sentence_lengths(100), 32, seed=42, epoch=3, task="sst2")
    assert np.random.rand() == expected


@pytest.mark.parametrize(
    "changed", [{"seed": 1}, {"epoch": 2}, {"task": "mr"}, {"batch_size": 16}], ids=lambda c: next(iter(c))
)
def test_every_argument_changes_the_order(changed):
    lengths = sentence_lengths(1000)
    asked = {"seed": 0, "epoch": 1, "task": "sst2", "batch_size": 32}
    orders = [np.concatenate(epoch_batches(lengths, **(asked | change))).tolist() for change in ({}, changed)]
    assert orders[0] != orders[1]


def test_seed_and_epoch_are_not_added_up():
    lengths = sentence_lengths(500)
    one = epoch_batches(lengths, 32, seed=1, epoch=12, task="mr")
    other = epoch_batches(lengths, 32, seed=11, epoch=2, task="mr")
    assert np.concatenate(one).tolist() != np.concatenate(other).tolist()


def test_short_and_long_batches_are_mixed_over_the_epoch():
    lengths = sentence_lengths(6400)
    batches = epoch_batches(lengths, 32, seed=0, epoch=1, task="sst2")
    means = np.array([lengths[batch].mean() for batch in batches])
    halves = np.array_split(means, 2)
    assert abs(halves[0].mean() - halves[1].mean()) < 0.15 * means.mean()
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.25


def test_the_smaller_batch_does_not_always_hold_the_longest_rows():
    lengths = sentence_lengths(1000)
    smaller = []
    for epoch in range(8):
        batches = epoch_batches(lengths, 32, seed=0, epoch=epoch, task="cr")
        (small,) = [batch for batch in batches if len(batch) == 1000 % 32]
        smaller.append(lengths[small].mean())
    assert min(smaller) < np.median(lengths) < max(smaller)


def test_rows_of_like_length_share_a_batch():
    batches = epoch_batches(np.array([5, 9, 2, 7, 4, 8]), 2, seed=0, epoch=1, task="toy")
    by_length = [sorted(batch.tolist()) for batch in batches]
    assert sorted(by_length) == [[0, 3], [1, 5], [2, 4]]


def test_evaluation_batches_start_with_the_longest_rows():
    batches = sorted_batches(np.array([3, 9, 5, 9, 1]), 2)
    assert [batch.tolist() for batch in batches] == [[1, 3], [2, 0], [4]]
