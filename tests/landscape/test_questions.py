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
from layertune.landscape.questions import Scores, additive, bootstrap, gain, interval, percentiles, regret

SINGLE = tuple((layer,) for layer in (1, 2, 3, 4))


def test_a_percentile_is_the_share_of_the_others_that_are_worse_and_half_of_the_equals():
    means = np.array([0.6, 0.6, 0.9, 0.15])
    assert percentiles(means) == pytest.approx([50, 50, 100, 0])


def test_regret_chooses_on_one_seed_and_reads_on_the_other():
    # Seed 0 says the third set, which has 0.5 under seed 1; seed 1 says the second, which has 0.6 under 0.
    scores = Scores(SINGLE[:3], (0, 1), np.array([[0.6, 0.6], [0.6, 0.8], [0.9, 0.5]]))
    assert regret(scores, [0]) == pytest.approx(((0.5 - 0.6) + (0.6 - 0.6)) / 2)
    naive = scores.means.max() - scores.means[0]
    assert naive > regret(scores, [0])  # the maximum of noisy numbers promises more
    assert regret(scores, range(3)) == pytest.approx(((0.5 - 1.9 / 3) + (0.6 - 2.1 / 3)) / 2)
    assert regret(Scores(SINGLE[:3], (0,), scores.values[:, :1]), [0]) is None


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


def answered(right: np.ndarray, metric: str = "accuracy") -> Scores:
    """Sets whose answers are right, or not, [sets, seeds, rows]; all rows are of label 1."""
    gold = np.ones(right.shape[2], dtype=int)
    return Scores(SINGLE[: len(right)], (0,), right.mean(2), metric, gold, right.astype(int))


def test_rows_drawn_anew_move_percentiles_as_their_exact_distribution_says():
    # Two sets and two rows, each right on one: of four draws of two rows, one of each row ties (2 of 4), else
    # one set wins. The percentile is 0, 50 or 100 with 1/4, 1/2, 1/4.
    drawn = bootstrap(answered(np.array([[[True, False]], [[False, True]]])), draws=4000)
    shares = [(drawn[0] == found).mean() for found in (0, 50, 100)]
    assert shares == pytest.approx([1 / 4, 1 / 2, 1 / 4], abs=0.03)
    assert interval(drawn, [0]) == (0, 100) and interval(drawn, [0, 1]) == (50, 50)  # of both the mean


def test_rows_of_macro_f1_are_drawn_anew_too():
    # Labels 0, 1, 1; one set says 0, 1, 1, the other 1, 1, 1. They are alike where row 1 is not drawn (8/27):
    # then both have answered everything rightly.
    gold = np.array([0, 1, 1])
    scores = Scores(
        SINGLE[:2], (0,), np.array([[1.0], [0.4]]), "f1_macro", gold, np.array([[gold], [[1, 1, 1]]])
    )
    drawn = bootstrap(scores, draws=4000)
    assert (drawn[0] == 50).mean() == pytest.approx(8 / 27, abs=0.03)
    assert (drawn[0] == 100).mean() == pytest.approx(19 / 27, abs=0.03)


def test_what_is_hard_for_all_sets_moves_no_percentile():
    right = np.random.default_rng(1).random(50) < 0.8
    both = np.stack([right, right & (np.arange(50) > 0)])[:, None]  # the second is never better
    drawn = bootstrap(answered(both))
    assert (drawn[0] >= drawn[1]).all() and drawn.std() > 0


def test_without_answers_seeds_alone_are_drawn_anew():
    # Of two draws of two seeds: one of each (1/2) has 0.5 beside 0.4, else 0 or 1 (1/4 each).
    drawn = bootstrap(Scores(SINGLE[:2], (0, 1), np.array([[0.0, 1.0], [0.4, 0.4]])), draws=4000)
    assert [(drawn[0] == found).mean() for found in (0, 100)] == pytest.approx([1 / 4, 3 / 4], abs=0.03)


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
    write(results, GROUND, [row((1,), 0)], name="tiny_bert-demo-other")
    with pytest.raises(ConfigError, match="tiny_bert-demo-other"):
        landscape.load("tiny_bert", "demo", results)
    assert len(landscape.load("tiny_bert", "demo", results, which="other")) == 1


@pytest.mark.parametrize(
    ("model", "task"), [("tiny_bert", "dmo"), ("tiny_brt", "demo"), ("gte_small", "trec")]
)
def test_a_landscape_that_is_not_there_says_what_is_and_how_to_make_it(results, model, task):
    with pytest.raises(ConfigError) as failed:
        landscape.load(model, task, results)
    said = str(failed.value)
    assert "there are: tiny_bert-demo." in said and f"model={model} task={task} k=3" in said
    assert ("Did you mean 'tiny_bert-demo'?" in said) == (model != "gte_small")


def test_without_a_folder_the_working_folders_own_stand_before_what_the_package_carries(
    results, tmp_path, monkeypatch
):
    carried = tmp_path / "carried"
    carried.mkdir()
    write(carried, GROUND | {"task": "trec"}, [row((1,), 0)])
    write(carried, GROUND, [row((1,), 0)])  # of the name of one in the working folder
    monkeypatch.setattr(landscape, "SHIPPED", carried / "landscapes")
    (tmp_path / "results").symlink_to(results)
    monkeypatch.chdir(tmp_path)
    assert len(landscape.load("tiny_bert", "trec")) == 1 and len(landscape.load("tiny_bert", "demo")) == 16


def test_what_the_package_carries_lies_beside_its_configurations(repo):
    assert (repo / "results" / "landscapes").resolve() == landscape.SHIPPED


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
