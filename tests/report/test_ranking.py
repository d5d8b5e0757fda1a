"""Ranks and probabilities of improvement: by hand, and against the tables of Demšar (2006)."""

from __future__ import annotations

import math

import pytest

from layertune.report.figures.methods import (
    Improvement,
    Ranks,
    improvement,
    improvement_figure,
    ranks,
    ranks_figure,
)

ORDERS = {  # task -> methods from the best
    "one": "abc",
    "two": "abc",
    "three": "acb",
    "four": "bac",
}


def runs(orders: dict[str, str]) -> dict[tuple[str, str], list[float]]:
    return {(m, task): [90.0 - place] for task, order in orders.items() for place, m in enumerate(order)}


def test_ranks_are_averaged_over_tasks_best_first() -> None:
    found = ranks(runs(ORDERS))
    assert found is not None
    assert (found.methods, found.average) == (("a", "b", "c"), (1.25, 2.0, 2.75))
    # Friedman's chi-square: 12 * 4 / (3 * 4) * (0.75² + 0 + 0.75²) = 4.5; with two degrees exp(-4.5 / 2)
    assert found.p == pytest.approx(math.exp(-2.25))
    assert found.left_out == ()


@pytest.mark.parametrize(("count", "q"), [(3, 2.343), (5, 2.728), (10, 3.164)])  # Demšar (2006), Table 5(a)
def test_the_critical_difference_is_nemenyis(count: int, q: float) -> None:
    methods = "abcdefghij"[:count]
    found = ranks(runs({str(task): methods for task in range(14)}))
    assert found is not None
    assert found.critical == pytest.approx(q * math.sqrt(count * (count + 1) / (6 * 14)), abs=1e-3)


def test_equals_share_their_rank() -> None:
    found = ranks(runs(ORDERS) | {("a", "one"): [90.0], ("b", "one"): [90.0]})
    assert found is not None and found.average == (1.375, 2.125 - 0.25, 2.75)


def test_what_leaves_most_gaps_is_left_out_a_method_before_a_task() -> None:
    given = runs(ORDERS) | {("d", "one"): [1.0]}
    found = ranks(given)
    assert found is not None and found.left_out == ("d",)
    del given["a", "four"], given["b", "four"]
    found = ranks(given)
    assert found is not None and found.left_out == ("d", "four") and found.tasks == ("one", "two", "three")
    assert ranks(runs(dict(list(ORDERS.items())[:2]))) is None


def test_bars_join_what_lies_within_the_critical_difference_and_no_shorter_ones() -> None:
    found = Ranks(("a", "b", "c", "d"), (1.0, 2.0, 3.0, 3.5), ("t",), (), 0.01, 1.6)
    assert found.groups() == [(0, 1), (1, 3)]


def test_a_run_beats_another_in_so_many_of_their_pairs_and_ties_are_half() -> None:
    given = {("a", "one"): [1.0, 3.0], ("b", "one"): [2.0, 3.0], ("a", "two"): [5.0], ("b", "two"): [4.0]}
    found = improvement(given, "a", "b")
    assert found is not None and found.tasks == 2
    # one: 1 beats none, 3 beats 2 and ties with 3: 1.5 of 4; two: 1 of 1
    assert found.probability == pytest.approx((1.5 / 4 + 1) / 2)
    # drawn anew in one: (1, 1) against (2, 2) ... at least 0, at most (3, 3) against (2, 2): 1
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(1.0))
    assert improvement(given, "a", "c") is None


def test_runs_of_clearly_better_methods_leave_no_doubt() -> None:
    given = {
        (m, str(t)): [base + s for s in (0.0, 0.1, 0.2)]
        for t in range(5)
        for m, base in (("a", 9.0), ("b", 1.0))
    }
    found = improvement(given, "a", "b")
    assert found is not None and (found.probability, found.low, found.high) == (1.0, 1.0, 1.0)


def test_the_figures_name_every_method_and_what_is_left_out() -> None:
    found = Ranks(("a", "b", "c"), (1.25, 2.0, 2.75), ("one", "two", "three"), ("d",), 0.1, 1.9)
    figure = ranks_figure(found, {"a": "Alpha"}, ["a"], "title")
    shown = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "Alpha  1.3" in shown and "2.0" in shown and "critical difference 1.90" in shown
    assert "Left out, for what they lack: d." in figure.get_supxlabel().replace("\n", " ")
    better = [Improvement("a", "b", 3, 0.9, 0.7, 1.0), Improvement("a", "c", 3, 0.5, 0.2, 0.8)]
    figure = improvement_figure(better, {"b": "Beta"}, "title")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["Beta", "c"]
