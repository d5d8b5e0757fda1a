"""Two claims of the paper judged on whole landscapes: what chance would do, and how far tasks agree."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from made_landscapes import GROUND, row, write

from layertune.landscape.claims import better_than_chance, follows_the_task, judges
from layertune.landscape.page import Page
from layertune.landscape.questions import Scores
from layertune.landscape.rows import read_rows
from layertune.landscape.rules import Rule
from layertune.report.claims import judge_all
from layertune.report.claims_text import to_text
from layertune.report.index import RecordIndex
from layertune.report.paper import load_paper_tables
from layertune.report.paper_claims import STRATEGIES, load_claims
from layertune.report.request import Request

SETS = tuple(combinations(range(1, 7), 3))  # 20
UP = np.arange(20) / 20


@pytest.fixture
def page(tmp_path):
    """Return a landscape of six layers: the values of its sets under each seed, and what the four take."""
    ground, _ = read_rows(write(tmp_path, GROUND, []))

    def made(values: np.ndarray, chosen=(0, 0, 0, 0), task: str = "demo") -> Page:
        names = zip(STRATEGIES, chosen, strict=True)
        known = tuple((Rule(name, name, (SETS[place],)), None) for name, place in names)
        seeds = tuple(range(values.shape[1]))
        return Page(task, ground, Scores(SETS, seeds, values), known, ())

    return made


def seeds(*values) -> np.ndarray:
    return np.stack(values, axis=1)


@pytest.mark.parametrize(
    ("chosen", "status", "mean"),
    [
        ((16, 17, 18, 19), "holds", 1750 / 19),  # the four best: one of 4,845 ways to take four of twenty
        ((0, 1, 2, 3), "does_not_hold", 150 / 19),
        ((19, 19, 19, 19), "within_noise", 100.0),  # one set, the best: chance takes it once in twenty
        ((0, 6, 13, 19), "within_noise", 950 / 19),
    ],
)
def test_four_sets_are_good_where_chance_seldom_takes_as_good_ones(page, chosen, status, mean):
    verdict = better_than_chance([page(seeds(UP), chosen)])
    assert (verdict.status, verdict.numbers["mean percentile"]) == (status, pytest.approx(mean))


def test_one_set_that_is_best_on_two_tasks_alike_is_no_more_than_one(page):
    best = (19, 19, 19, 19)
    verdict = better_than_chance([page(seeds(UP), best), page(seeds(UP), best)])
    assert verdict.numbers["p"] == pytest.approx(1 / 20, abs=0.015)


def test_a_landscape_that_tells_fewer_than_four_does_not_enter(page):
    known = page(seeds(UP))
    less = Page(known.name, known.ground, known.scores, known.rules[:3], ())
    assert better_than_chance([less]).status == better_than_chance([]).status == "not_enough_runs"


def test_tasks_of_one_order_have_one_choice_and_tasks_of_reverse_orders_have_two(page):
    same = follows_the_task([page(seeds(UP, UP)), page(seeds(UP, UP))])
    assert (same.status, same.numbers["between tasks"]) == ("does_not_hold", pytest.approx(1))
    reverse = follows_the_task([page(seeds(UP, UP)), page(seeds(UP[::-1], UP[::-1]))])
    assert (reverse.status, reverse.numbers["between tasks"]) == ("holds", pytest.approx(-1))


def test_one_seed_one_task_or_seeds_that_do_not_agree_say_nothing(page):
    one, two, against = page(seeds(UP)), page(seeds(UP, UP)), page(seeds(UP, UP[::-1]))
    for pages in ([one, one], [two], [two, against]):
        assert follows_the_task(pages).status == "not_enough_runs"


def test_noise_of_seeds_alone_seldom_makes_a_choice_that_follows_the_task(page):
    held = 0
    for world in range(100):
        rng = np.random.default_rng(world)
        truth = rng.normal(size=20)
        tasks = [truth[:, None] + rng.normal(size=(20, 2)) * noise for noise in (0.4, 0.9)]
        held += follows_the_task([page(values) for values in tasks]).status == "holds"
    assert held <= 5


def test_make_claims_prints_what_the_landscapes_of_a_model_say(tmp_path):
    sets = list(combinations(range(1, 5), 3))
    for task, order in (("demo", sets), ("cr", sets[::-1])):
        rows = [row(layers, seed, score=place / 10) for place, layers in enumerate(order) for seed in (0, 1)]
        write(tmp_path, GROUND | {"task": task}, rows)
    index = RecordIndex.read(tmp_path / "runs")
    claims = [claim for claim in load_claims() if claim.kind.startswith("landscape")]
    request = Request("tiny_bert")
    judged = judge_all(claims, load_paper_tables(), request, index, judges(tmp_path))
    assert [one.ours.status for one in judged] == ["not_enough_runs", "holds"]
    lines = [line for line in to_text(judged, request).splitlines() if "landscapes:" in line]
    assert len(lines) == 2 and "seeds of two tasks by -1.00" in lines[1]
    assert [one.ours.status for one in judge_all(claims, load_paper_tables(), request, index)] == [
        "not_enough_runs"
    ] * 2
