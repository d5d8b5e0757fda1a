"""Adaptive scoring reads few examples, chooses what the full pass chooses, and takes all where it must."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch

from layertune.config.identity import EXAMPLE_SCORERS, RANKING_SELECTORS, WEIGHT_SCORERS
from layertune.scoring import SCORERS, LayerScores
from layertune.scoring.adaptive import BATCH, LEAST_EXAMPLES, Gaps, adaptive_scores, deciding_pairs
from layertune.selection import SELECTORS
from layertune.tasks import TokenStore

NO_RANKING = {"top", "bottom", "random", "block_random"}


def test_pairs_of_the_k_highest_are_each_chosen_layer_against_each_other_one():
    assert deciding_pairs("highest", 4, 2, [0.1, 0.9, 0.5, 0.7]) == [(1, 0), (1, 2), (3, 0), (3, 2)]
    assert deciding_pairs("lowest", 4, 1, [0.1, 0.9, 0.5, 0.7]) == [(0, 1), (0, 2), (0, 3)]


def test_pairs_of_blocks_stay_inside_them():
    scores = [0.3, 0.1, 0.2, 0.9, 0.8, 0.7]
    assert deciding_pairs("block_highest", 6, 2, scores) == [(0, 1), (0, 2), (3, 4), (3, 5)]
    assert deciding_pairs("block_median", 6, 2, scores) == [(2, 0), (2, 1), (4, 3), (4, 5)]


def test_the_lists_of_the_configuration_are_those_that_work():
    assert set(RANKING_SELECTORS) == set(SELECTORS) - NO_RANKING
    assert set(EXAMPLE_SCORERS) == set(SCORERS) - {
        "gradient_norm",
        "feature_variance",
        "cka",
        *WEIGHT_SCORERS,
    }


def test_a_gap_is_the_paired_difference_over_its_standard_error():
    terms = np.random.default_rng(0).normal([[5.0, 5.3, 9.0]], 1.0, (40, 3))
    terms[:, 1] += terms[:, 0] - 5  # correlated layers: the paired spread is small
    gaps = Gaps()
    for part in np.split(terms, 4):
        gaps.update(torch.from_numpy(part))
    difference = terms[:, 0] - terms[:, 1]
    expected = abs(difference.mean()) / (difference.std(ddof=1) / math.sqrt(40))
    assert gaps.smallest([(0, 1)]) == pytest.approx(expected, rel=1e-9)
    assert gaps.smallest([(0, 1), (0, 2)]) == pytest.approx(expected, rel=1e-9)
    assert gaps.scores == pytest.approx(terms.mean(0).tolist())


def test_two_layers_that_are_the_same_decide_nothing():
    gaps = Gaps()
    gaps.update(torch.ones(10, 2))
    assert gaps.smallest([(0, 1)]) == 0.0
    gaps.update(torch.tensor([[1.0, 2.0]]).expand(5, 2))
    assert gaps.smallest([(0, 1)]) > 0.0


class Scripted:
    """A scorer that looks its terms up by row instead of running a model."""

    def __init__(self, terms: np.ndarray) -> None:
        self.terms, self.read, self.sizes = terms, [], []

    def __call__(self, model, batches, each) -> LayerScores:
        for batch in batches:
            self.read += batch.indices.tolist()
            self.sizes.append(len(batch))
            each(torch.from_numpy(self.terms[batch.indices]))
        values = tuple(self.terms[self.read].mean(0).tolist())
        return LayerScores(values, values, None, len(self.read), 0.0)


def store_of(count: int) -> TokenStore:
    lengths = np.random.default_rng(1).integers(1, 9, count)
    return TokenStore(
        np.zeros(lengths.sum(), np.int32),
        np.concatenate([[0], np.cumsum(lengths)]),
        None,
        np.zeros(count, np.int64),
        0,
        0,
    )


def run(terms: np.ndarray, selector: str = "lowest", k: int = 1) -> tuple[Scripted, LayerScores]:
    scorer = Scripted(terms)
    return scorer, adaptive_scores(scorer, None, store_of(len(terms)), selector, k)


def test_clear_gaps_are_decided_by_the_least_number_of_examples():
    noise = np.random.default_rng(0).normal(0, 0.1, (1000, 3))
    scorer, scores = run(noise + np.array([1.0, 2.0, 3.0]))
    assert scores.examples == LEAST_EXAMPLES == 64 and scorer.sizes == [16] * 4
    assert run(noise + np.array([1.0, 2.0, 3.0]))[0].read == scorer.read  # one order for all runs


def test_a_gap_that_does_not_decide_is_not_waited_for():
    noise = np.random.default_rng(0).normal(0, 0.1, (1000, 3))
    assert run(noise + np.array([1.0, 3.0, 3.0]))[1].examples == LEAST_EXAMPLES  # the two others tie


def test_a_small_gap_takes_more_examples():
    noise = np.random.default_rng(0).normal(0, 1.0, (4000, 2))
    _, scores = run(noise + np.array([1.0, 1.5]))
    assert LEAST_EXAMPLES < scores.examples < 1000 and (scores.examples - LEAST_EXAMPLES) % BATCH == 0


@pytest.mark.parametrize("count", [40, 64, 700])
def test_a_tie_takes_every_example_once(count):
    scorer, scores = run(np.random.default_rng(0).normal(0, 1.0, (count, 2)))
    assert scores.examples == count and sorted(scorer.read) == list(range(count))


def test_the_rest_of_a_hopeless_split_is_read_in_batches_of_similar_length():
    scorer, _ = run(np.repeat(np.random.default_rng(0).normal(0, 1.0, (700, 1)), 2, axis=1))
    assert scorer.sizes[16:] == [64] * 6 + [60]


def test_what_runs_together_is_of_similar_length():
    scorer, _ = run(np.array([1.0, 2.0, 3.0]) + np.random.default_rng(0).normal(0, 0.1, (1000, 3)))
    lengths = store_of(1000).lengths[scorer.read]
    assert lengths.tolist() == sorted(lengths, reverse=True)  # all 64 of the first look, sorted


@pytest.mark.parametrize("selector", sorted(RANKING_SELECTORS))
def test_the_set_is_that_of_all_examples(selector):
    rng = np.random.default_rng(3)
    for _ in range(20):
        terms = rng.normal(rng.normal(0, 1, 12), rng.uniform(0.1, 1.0), (600, 12))
        _, scores = run(terms, selector, 3)
        choose = SELECTORS[selector]
        few = choose(12, 3, scores.values, random.Random(0))
        assert few == choose(12, 3, terms.mean(0).tolist(), random.Random(0))
