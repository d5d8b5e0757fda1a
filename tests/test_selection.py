from __future__ import annotations

import random

import pytest

from layertune.errors import ConfigError
from layertune.selection import SELECTORS, blocks

RNG = random.Random(0)
#          1    2    3    4    5    6    7    8    9    10   11   12
SCORES = [0.5, 0.9, 0.1, 0.7, 0.3, 0.3, 0.8, 0.2, 0.6, 0.4, 1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("highest", (2, 7, 11)),
        ("lowest", (3, 8, 12)),
        ("block_highest", (2, 7, 11)),  # blocks 1-4, 5-8, 9-12
        ("block_lowest", (3, 8, 12)),
        ("block_median", (1, 5, 10)),  # ascending: 3 1 4 2 | 8 5 6 7 | 12 10 9 11, the second of each
        ("block_median_upper", (4, 6, 9)),  # the third of each
        ("top", (10, 11, 12)),
        ("bottom", (1, 2, 3)),
    ],
)
def test_each_rule_picks_the_layers_worked_out_by_hand(name, expected):
    assert SELECTORS[name](12, 3, SCORES, RNG) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("highest", (1, 2)),
        ("lowest", (1, 2)),
        ("block_highest", (1, 4)),
        ("block_lowest", (1, 4)),
        ("block_median", (2, 5)),
    ],
)
def test_ties_go_to_the_lower_layer(name, expected):
    assert SELECTORS[name](6, 2, [0.5] * 6, RNG) == expected


@pytest.mark.parametrize(
    ("num_layers", "k", "sizes"),
    [
        (12, 3, [4, 4, 4]),
        (22, 3, [8, 7, 7]),
        (26, 3, [9, 9, 8]),
        (12, 5, [3, 3, 2, 2, 2]),
        (12, 11, [2] + [1] * 10),
        (30, 3, [10, 10, 10]),
        (12, 1, [12]),
    ],
)
def test_blocks_cover_all_layers_and_the_larger_come_first(num_layers, k, sizes):
    parts = blocks(num_layers, k)
    assert [len(part) for part in parts] == sizes
    assert [layer for part in parts for layer in part] == list(range(num_layers))


def test_all_but_one_layer_drops_the_best_the_worst_or_one_of_the_first_two():
    assert SELECTORS["lowest"](12, 11, SCORES, RNG) == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12)
    assert SELECTORS["highest"](12, 11, SCORES, RNG) == tuple(range(1, 12))
    assert SELECTORS["block_highest"](12, 11, SCORES, RNG) == tuple(range(2, 13))
    assert SELECTORS["block_lowest"](12, 11, SCORES, RNG) == (1, *range(3, 13))


def test_an_odd_block_has_one_median():
    scores = [3.0, 1.0, 2.0, 9.0, 7.0, 8.0]
    assert SELECTORS["block_median"](6, 2, scores, RNG) == (3, 6)
    assert SELECTORS["block_median_upper"](6, 2, scores, RNG) == (3, 6)


def test_random_layers_are_the_sample_of_the_runs_seed():
    for seed in (0, 42, 100):
        expected = sorted(layer + 1 for layer in random.Random(seed).sample(range(12), 3))
        assert SELECTORS["random"](12, 3, None, random.Random(seed)) == tuple(expected)
    assert len({SELECTORS["random"](12, 3, None, random.Random(seed)) for seed in range(20)}) > 10


def test_block_random_takes_one_layer_of_every_block_and_reaches_all_of_them():
    drawn = [SELECTORS["block_random"](12, 3, None, random.Random(seed)) for seed in range(200)]
    assert all(a <= 4 < b <= 8 < c <= 12 for a, b, c in drawn)
    assert {layer for layers in drawn for layer in layers} == set(range(1, 13))
    assert SELECTORS["block_random"](12, 3, None, random.Random(5)) == drawn[5]


@pytest.mark.parametrize("name", sorted(SELECTORS))
@pytest.mark.parametrize("k", [0, 12, 13, -1])
def test_a_k_outside_one_to_l_minus_one_is_refused_with_the_range(name, k):
    with pytest.raises(ConfigError, match=rf"k={k} .* 12 layers allow 1 to 11"):
        SELECTORS[name](12, k, SCORES, RNG)


@pytest.mark.parametrize("name", ["highest", "lowest", "block_highest", "block_lowest", "block_median"])
def test_a_rule_that_reads_scores_refuses_to_run_without_them(name):
    with pytest.raises(ConfigError, match=f"selector={name} needs scores"):
        SELECTORS[name](12, 3, None, RNG)
    with pytest.raises(ConfigError, match="11 scores for 12 layers"):
        SELECTORS[name](12, 3, SCORES[:-1], RNG)


@pytest.mark.parametrize("name", sorted(SELECTORS))
@pytest.mark.parametrize("k", [1, 2, 5, 7, 11])
def test_every_rule_returns_k_different_layers_in_ascending_order(name, k):
    layers = SELECTORS[name](12, k, SCORES, random.Random(3))
    assert len(set(layers)) == k and list(layers) == sorted(layers)
    assert layers[0] >= 1 and layers[-1] <= 12
