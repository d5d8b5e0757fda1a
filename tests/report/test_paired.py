"""Signed ranks by hand, by enumeration and against scipy; tasks as units; Holm's correction; intervals."""

from __future__ import annotations

import itertools
import random

import pytest

from layertune.report.paired import corrected, paired_test, signed_rank


@pytest.mark.parametrize(
    ("differences", "used", "statistic", "p", "least"),
    [
        ([1, 2, 3], 3, 6.0, 2 / 8, 2 / 8),
        ([3, -1, 2], 3, 5.0, 4 / 8, 2 / 8),  # W+ of 5 or 6: two of eight
        ([1, 1, -1], 3, 4.0, 1.0, 2 / 8),  # ranks 2 2 2; W+ of 4 or 6: four of eight
        ([-1, -2, -3, -4, -5, -6], 6, 0.0, 2 / 64, 2 / 64),
        ([0, 0.5, 0], 1, 1.0, 1.0, 1.0),
        ([0.1 + 0.2 - 0.3], 0, 0.0, 1.0, 1.0),  # float noise is no difference
        ([], 0, 0.0, 1.0, 1.0),
    ],
)
def test_signed_ranks_worked_out_by_hand(
    differences: list[float], used: int, statistic: float, p: float, least: float
) -> None:
    found = signed_rank(differences)
    assert (found.used, found.statistic) == (used, statistic)
    assert (found.p, found.least_p) == (pytest.approx(p), pytest.approx(least))


def test_ties_have_the_distribution_that_all_combinations_of_signs_give() -> None:
    differences = [1.0, -1.0, 2.0, 2.0, -2.0, 3.0, 4.0, 4.0]
    ranks = [1.5, 1.5, 4, 4, 4, 6, 7.5, 7.5]
    observed = sum(rank for rank, one in zip(ranks, differences, strict=True) if one > 0)
    sums = [
        sum(rank for rank, up in zip(ranks, signs, strict=True) if up)
        for signs in itertools.product([False, True], repeat=8)
    ]
    upper = sum(one >= observed for one in sums) / len(sums)
    found = signed_rank(differences)
    assert found.statistic == observed == 30.5
    assert found.p == pytest.approx(2 * upper)


@pytest.mark.parametrize("count", [5, 12, 45])
def test_without_ties_it_is_scipys_exact_test(count: int) -> None:
    from scipy.stats import wilcoxon

    rng = random.Random(count)
    differences = [rng.gauss(0.4, 1.0) for _ in range(count)]
    reference = wilcoxon(differences, method="exact")
    found = signed_rank(differences)
    assert found.p == pytest.approx(reference.pvalue)
    assert min(found.statistic, count * (count + 1) / 2 - found.statistic) == reference.statistic


def test_tasks_are_the_units_where_there_are_several_and_weigh_alike() -> None:
    test = paired_test("a", "b", {"one": [1.0, 3.0], "two": [5.0, 5.0, 5.0], "three": [-1.0]})
    assert (test.units, test.tasks, test.pairs) == ("tasks", 3, 6)
    assert test.mean == pytest.approx(2.0)  # of 2, 5 and -1
    assert test.ranks.statistic == 5.0  # ranks 2 and 3 of 1, 2, 3
    assert test.p_pairs == signed_rank([1, 3, 5, 5, 5, -1]).p
    assert not test.can_decide


def test_seeds_are_the_units_within_one_task_with_an_interval_by_students_t() -> None:
    test = paired_test("a", "b", {"one": [1.0, 2.0, 3.0]})
    assert (test.units, test.mean) == ("seeds", 2.0)
    half = 4.302653 / 3**0.5  # t of 97.5 % at two degrees of freedom; the standard deviation is 1
    assert (test.low, test.high) == (pytest.approx(2 - half, abs=1e-5), pytest.approx(2 + half, abs=1e-5))
    assert paired_test("a", "b", {"one": [1.0]}).low is None


def test_a_margin_is_tested_in_place_of_zero_and_a_cost_leads_when_lower() -> None:
    seeds = [-0.5, -0.6, -0.7, -0.4, -0.3, -0.2]
    inside = paired_test("a", "full", {"one": seeds}, against=-1.0)
    assert (inside.ranks.statistic, inside.ranks.p) == (21.0, pytest.approx(2 / 64))
    assert inside.lead == pytest.approx(0.55)
    cost = paired_test("a", "full", {"one": seeds}, lower_is_better=True)
    assert (cost.ranks.statistic, cost.lead) == (0.0, pytest.approx(0.45))


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests_and_never_falls() -> None:
    def six(sign: float) -> dict[str, list[float]]:  # p 2/64
        return {"one": [sign * size for size in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)]}

    nine = {"one": [float(size) for size in range(1, 10)]}  # p 2/512
    tests = [paired_test("a", "b", six(1)), paired_test("a", "c", nine), paired_test("a", "d", six(-1))]
    found = corrected(tests)
    assert [test.p_holm for test in found] == [
        pytest.approx(2 * 2 / 64),
        pytest.approx(3 * 2 / 512),
        pytest.approx(2 * 2 / 64),
    ]
    assert [test.is_decisive for test in found] == [False, True, False]
    few = [paired_test("a", other, {"one": [1.0, 2.0, 3.0]}, where="bleu") for other in "efg"]
    assert [test.p_holm for test in corrected([tests[1], *few])] == [
        pytest.approx(x) for x in (2 / 512, *[1 / 4] * 3)
    ]
    assert corrected([]) == ()
