"""Landscapes small enough to count: percentiles, regret, gain, the additive model, and the door to them."""

from __future__ import annotations

import math
import time
from itertools import combinations

import numpy as np
import pytest
from made_landscapes import GROUND, row, write

from layertune import landscape
from layertune.errors import ConfigError, RecordError
from layertune.landscape.questions import (
    Scores,
    additive,
    bootstrap,
    gain,
    interval,
    percentile,
    rank_correlation,
    regret,
)

SINGLE = tuple((layer,) for layer in (1, 2, 3, 4))


def test_a_percentile_is_the_share_of_the_others_that_are_worse_and_half_of_the_equals():
    scores = Scores(SINGLE, (0, 1), np.array([[0.5, 0.7], [0.6, 0.6], [0.9, 0.9], [0.1, 0.2]]))
    # means 0.6, 0.6, 0.9, 0.15
    assert [percentile(scores, place) for place in range(4)] == pytest.approx([50, 50, 100, 0])


def test_regret_chooses_on_one_seed_and_reads_on_the_other():
    # Seed 0 says the third set, which has 0.5 under seed 1; seed 1 says the second, which has 0.6 under 0.
    scores = Scores(SINGLE[:3], (0, 1), np.array([[0.6, 0.6], [0.6, 0.8], [0.9, 0.5]]))
    assert regret(scores, 0) == pytest.approx(((0.5 - 0.6) + (0.6 - 0.6)) / 2)
    naive = scores.means.max() - scores.means[0]
    assert naive > regret(scores, 0)  # the maximum of noisy numbers promises more
    assert regret(scores, None) == pytest.approx(((0.5 - 1.9 / 3) + (0.6 - 2.1 / 3)) / 2)
    assert regret(Scores(SINGLE[:3], (0,), scores.values[:, :1]), 0) is None


def test_gain_takes_from_the_spread_over_sets_what_seeds_explain():
    found = gain(Scores(SINGLE[:3], (0, 1), np.array([[0.1, 0.3], [0.4, 0.6], [0.7, 0.9]])))
    # means 0.2, 0.5, 0.8; within each set a variance of 0.02, halved over two seeds
    assert found.sets == pytest.approx(0.3) and found.seeds == pytest.approx(math.sqrt(0.02))
    assert found.real == pytest.approx(math.sqrt(0.09 - 0.01)) and found.agreement == pytest.approx(1)
    assert gain(Scores(SINGLE[:3], (0,), np.array([[0.1], [0.4], [0.7]]))).seeds is None


def test_the_additive_model_finds_the_values_it_was_made_of():
    values = np.array([0.01, 0.05, -0.02, 0.03, 0.08])
    sets = tuple(combinations(range(1, 6), 2))
    scores = np.array([[0.5 + sum(values[layer - 1] for layer in layers)] for layers in sets])
    found = additive(Scores(sets, (0,), scores), 5)
    assert found.effects == pytest.approx(values - values.mean()) and found.share == pytest.approx(1)
    assert additive(Scores(sets[:5], (0,), scores[:5]), 5) is None  # five sets, five layers: nothing is left
    assert additive(Scores(sets, (0,), np.ones((10, 1))), 5) is None


def test_noise_is_no_sum_of_layers():
    sets = tuple(combinations(range(1, 13), 3))
    noise = np.random.default_rng(0).normal(size=(len(sets), 1))
    assert abs(additive(Scores(sets, (0,), noise), 12).share) < 0.1  # unadjusted, 11 / 219 by chance


def test_rows_drawn_anew_move_percentiles_as_their_exact_distribution_says():
    # Two sets and two rows, each right on one: of four draws of two rows, one of each row ties (2 of 4), else
    # one set wins. The percentile is 0, 50 or 100 with 1/4, 1/2, 1/4.
    right = np.array([[[True, False]], [[False, True]]])
    scores = Scores(SINGLE[:2], (0,), np.full((2, 1), 0.5), right)
    drawn = bootstrap(scores, draws=4000)
    wins = (drawn[0] > drawn[1]).mean(), (drawn[0] == drawn[1]).mean()
    assert wins == (pytest.approx(1 / 4, abs=0.03), pytest.approx(1 / 2, abs=0.03))
    assert interval(scores, 0, drawn) == (0, 100)


def test_what_is_hard_for_all_sets_moves_no_percentile():
    right = np.random.default_rng(1).random(50) < 0.8
    both = np.stack([right, right & (np.arange(50) > 0)])[:, None]  # the second is never better
    drawn = bootstrap(Scores(SINGLE[:2], (0,), both.mean(2), both))
    assert (drawn[0] >= drawn[1]).all() and drawn.std() > 0


def test_without_answers_seeds_alone_are_drawn_anew():
    drawn = bootstrap(Scores(SINGLE[:2], (0, 1), np.array([[0.0, 1.0], [0.4, 0.4]])), draws=4000)
    assert set(np.unique(drawn[0])) == {0.0, 0.5, 1.0} and set(np.unique(drawn[1])) == {0.4}
    assert (drawn[0] == 0.5).mean() == pytest.approx(0.5, abs=0.03)


def test_rank_correlation_asks_for_the_order_alone():
    assert rank_correlation([1, 2, 3, 4], [1, 4, 9, 16]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 1, 2]) == pytest.approx(-0.5)  # 1 - 6 (4 + 1 + 1) / 24
    assert rank_correlation([1, 2], [5, 5]) is None


# -- the door ------------------------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    """Pairs of four layers under two seeds on ten rows: the higher the layers, the fewer wrong answers."""
    rows = [
        row(layers, seed, wrong=range(10 - sum(layers) - (seed == 0)))
        for layers in combinations(range(1, 5), 2)
        for seed in (0, 1)
    ]
    rows += [row((layer,), 0, wrong=range(layer, 5)) for layer in range(1, 5)]
    write(tmp_path, GROUND, rows)
    return tmp_path


def test_a_landscape_is_a_table_with_a_row_per_set_and_seed(results):
    sets = landscape.load("tiny_bert", "demo", results)
    assert len(sets) == 16 and set(sets["k"]) == {1, 2} and landscape.ground_of(sets).num_layers == 4
    pairs = sets[sets.k == 2].groupby("lowest").score.mean()
    # with both seeds: (1, 2) has 0.3 and 0.4 right, (1, 3) 0.4, 0.5, (1, 4) 0.5, 0.6
    assert pairs[1] == pytest.approx((0.35 + 0.45 + 0.55) / 3)


def test_a_rule_is_placed_among_all_sets_of_its_size(results):
    sets = landscape.load("tiny_bert", "demo", results)
    top = landscape.evaluate(sets, lambda num_layers, k: range(num_layers - k + 1, num_layers + 1), k=2)
    assert (top.layers, top.percentile, top.sets, top.seeds) == ((3, 4), 100, 6, 2)
    assert top.score == pytest.approx(0.75) and top.regret == pytest.approx(0) and top.low > 50
    # (1, 4) and (2, 3) tie in the middle: two of five are worse, one is equal
    assert landscape.percentile(sets, (4, 1)) == landscape.percentile(sets, [2, 3]) == pytest.approx(50)
    assert landscape.evaluate(sets, (1, 2)).regret == pytest.approx(0.4)


def test_auto_takes_the_layers_that_do_best_alone(results):
    sets = landscape.load("tiny_bert", "demo", results)
    assert landscape.auto(sets, 2) == (3, 4)
    with pytest.raises(ConfigError, match="k=1"):
        landscape.auto(sets[sets.layers != (2,)], 2)


@pytest.mark.parametrize(
    ("ask", "word"),
    [
        (lambda sets: landscape.percentile(sets, (1, 5)), "1, 5"),
        (lambda sets: landscape.percentile(sets, (1, 1)), "different"),
        (lambda sets: landscape.percentile(sets, (1, 2, 3)), "0 sets of 3"),
        (lambda sets: landscape.percentile(sets, ()), "no set"),
        (lambda sets: landscape.percentile(sets.assign(k=9), (1, 2)), "0 sets of 2"),
    ],
)
def test_what_a_landscape_cannot_answer_is_a_sentence(results, ask, word):
    with pytest.raises(ConfigError, match=word):
        ask(landscape.load("tiny_bert", "demo", results))


def test_one_landscape_is_wanted(results):
    with pytest.raises(ConfigError, match="none is"):
        landscape.load("tiny_bert", "trec", results)
    write(results, GROUND, [row((1,), 0)], name="tiny_bert-demo-other")
    with pytest.raises(ConfigError, match="tiny_bert-demo-other"):
        landscape.load("tiny_bert", "demo", results)
    assert len(landscape.load("tiny_bert", "demo", results, which="other")) == 1


def test_a_damaged_landscape_is_named(results):
    (path,) = (results / "landscapes").glob("*.jsonl")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(RecordError, match=path.name):
        landscape.load("tiny_bert", "demo", results)


def test_every_question_to_220_sets_is_answered_in_a_second(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        row(layers, seed, wrong=np.flatnonzero(rng.random(1000) < 0.1).tolist(), rows=1000)
        for layers in combinations(range(1, 13), 3)
        for seed in (0, 42)
    ]
    write(tmp_path, GROUND | {"num_layers": 12, "gold": [1] * 1000}, rows)
    sets = landscape.load("tiny_bert", "demo", tmp_path)
    start = time.process_time()
    placed = landscape.evaluate(sets, (1, 2, 3))
    assert time.process_time() - start < 2 and placed.low < placed.percentile < placed.high
