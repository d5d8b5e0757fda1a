"""Effects, intervals and p by hand and against scipy; calibrated by simulation; Holm's correction."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from scipy import stats

from layertune.report.paired import Spread, corrected, effect, paired_test


def test_tasks_are_the_units_where_there_are_several_and_weigh_alike() -> None:
    test = paired_test("a", "b", {"one": [1.0, 3.0], "two": [5.0, 5.0, 5.0], "three": [-1.0]})
    assert (test.units, test.tasks, test.pairs) == ("tasks", 3, 6)
    assert test.mean == pytest.approx(2.0)  # of 2, 5 and -1
    # between: (0 + 9 + 9) / 2 = 9; within: one of three tasks has a spread, 1 / 2 seeds, so 0.5 / 3
    half = 4.302653 * math.sqrt((9 + 0.5 / 3) / 3)  # t of 97.5 % at two degrees of freedom
    assert (test.low, test.high) == (pytest.approx(2 - half, abs=1e-5), pytest.approx(2 + half, abs=1e-5))


def test_the_standard_error_is_that_of_drawing_tasks_and_then_seeds() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(0, [[2.0], [1.0], [0.5], [3.0], [1.0]], (5, 3)) + rng.normal(0, 1, (5, 1))
    tasks = rng.integers(5, size=(40_000, 5))
    seeds = rng.integers(3, size=(40_000, 5, 3))
    drawn = differences[tasks[:, :, None], seeds].mean(axis=(1, 2))
    test = paired_test("a", "b", {str(task): list(own) for task, own in enumerate(differences)})
    assert test.high is not None
    error = (test.high - test.mean) / stats.t.ppf(0.975, 4)
    # few tasks: the draws' variance between them is 4/5 of the sample's
    between, within = differences.mean(1).var(), differences.var(1).mean() / 3
    assert drawn.std() == pytest.approx(math.sqrt((between + within) / 5), rel=0.02)
    assert error == pytest.approx(math.sqrt((between * 5 / 4 + within) / 5))


def test_with_one_seed_a_task_it_is_students_t_over_tasks() -> None:
    values = [0.3, 1.1, -0.2, 0.9]
    reference = stats.ttest_1samp(values, 0.25)
    test = paired_test("a", "b", {str(n): [value] for n, value in enumerate(values)}, against=0.25)
    assert test.p == pytest.approx(reference.pvalue)
    low, high = reference.confidence_interval(0.95)
    assert (test.low, test.high) == (pytest.approx(low), pytest.approx(high))


def test_within_one_task_the_spread_is_that_of_all_rows() -> None:
    first, second, third = [1.0, 2.0, 3.0], [0.0, 0.0, 3.0], [5.0, 5.0, 5.0]
    spread = Spread.of(first) + Spread.of(second) + Spread.of(third)
    assert (spread.deviation, spread.freedom) == (pytest.approx(math.sqrt((2 + 6 + 0) / 6)), 6)
    test = paired_test("a", "b", {"one": [1.0, 2.0, 0.0]}, spread=spread)
    half = 2.446912 * math.sqrt(8 / 6) * math.sqrt(2 / 3)  # t of 97.5 % at six degrees of freedom
    assert (test.units, test.mean, test.high) == ("seeds", 1.0, pytest.approx(1 + half, abs=1e-5))
    reference = stats.ttest_ind(first, second)
    alone = paired_test("a", "b", {"one": [1.0, 2.0, 0.0]}, spread=Spread.of(first) + Spread.of(second))
    assert alone.p == pytest.approx(reference.pvalue)


def test_a_single_pair_tells_nothing_of_its_error() -> None:
    test = paired_test("a", "b", {"one": [1.0]})
    assert (test.low, test.p, test.decides(), effect(test)) == (None, None, None, "+1.00")
    assert (Spread.of([1.0]) + Spread.of([2.0])).reach(1, 0.05) == math.inf


def test_a_margin_is_tested_in_place_of_zero_and_a_cost_leads_when_lower() -> None:
    tasks = {str(n): [value] for n, value in enumerate([-0.5, -0.6, -0.7, -0.4, -0.3, -0.2])}
    inside = paired_test("a", "full", tasks, against=-1.0)
    assert (inside.lead, inside.decides()) == (pytest.approx(0.55), True)
    assert paired_test("a", "full", tasks).decides() is False
    cost = paired_test("a", "full", tasks, lower_is_better=True)
    assert (cost.lead, cost.decides()) == (pytest.approx(0.45), True)


def test_differences_that_are_all_zero_decide_nothing() -> None:
    test = paired_test("a", "b", {"one": [0.0, 0.1 + 0.2 - 0.3], "two": [0.0, 0.0]})
    assert (test.p, test.decides()) == (1.0, None)


def test_the_effect_comes_first_then_its_interval_then_p() -> None:
    values = {"one": [1.0], "two": [2.0], "three": [3.0]}
    half = 4.302653 / math.sqrt(3)
    p = stats.ttest_1samp([1.0, 2.0, 3.0], 0).pvalue
    assert effect(paired_test("a", "b", values)) == f"+2.00 [{2 - half:+.2f}, {2 + half:+.2f}], p {p:.2g}"


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests_and_never_falls() -> None:
    rng = random.Random(0)
    tests = [
        paired_test("a", other, {str(n): [rng.gauss(lead, 1)] for n in range(8)})
        for other, lead in (("b", 1.0), ("c", 3.0), ("d", 0.9))
    ]
    single = paired_test("a", "e", {"one": [1.0]})
    found = corrected([*tests, single])
    p = sorted(test.p for test in tests if test.p is not None)
    wanted = [
        3 * p[0],
        max(3 * p[0], 2 * p[1]),
        max(3 * p[0], 2 * p[1], p[2]),
    ]  # the single pair does not count
    assert sorted(test.p_holm for test in found[:3] if test.p_holm is not None) == pytest.approx(wanted)
    assert found[3].p_holm is None
    assert corrected([]) == ()


@pytest.mark.parametrize("tasks", [2, 4, 8, 15])
@pytest.mark.parametrize(("between", "within"), [(0.0, 1.0), (0.5, 1.0), (1.0, 0.3)])
def test_the_interval_covers_and_the_test_is_of_its_size(tasks: int, between: float, within: float) -> None:
    """2,000 experiments without a difference: tasks differ by `between`, seeds by `within`, three seeds each.

    95 % would be 100 false alarms of 2,000, with a standard deviation of 10. Where seeds are all the noise
    there is, drawing them anew counts it twice, and fewer are right.
    """
    rng = np.random.default_rng(tasks)
    made = rng.normal(0, 1, (2000, tasks, 1)) * between + rng.normal(0, 1, (2000, tasks, 3)) * within
    found = [paired_test("a", "b", {str(n): list(own) for n, own in enumerate(one)}) for one in made.tolist()]
    alarms = sum(test.p is not None and test.p < 0.05 for test in found)
    covered = sum(
        test.low is not None and test.high is not None and test.low <= 0 <= test.high for test in found
    )
    assert covered == 2000 - alarms
    assert alarms <= 130
    if between > within and tasks > 2:
        assert alarms >= 60


def test_within_one_task_the_test_is_of_its_size() -> None:
    rng = np.random.default_rng(0)
    alarms = 0
    for rows in rng.normal(0, 1, (2000, 4, 3)):
        differences = list(rows[0] - rows[1])
        test = paired_test(
            "a", "b", {"one": differences}, spread=sum(map(Spread.of, rows.tolist()), Spread())
        )
        alarms += test.p is not None and test.p < 0.05
    assert 70 <= alarms <= 130
