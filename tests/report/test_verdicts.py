"""Three-valued logic, derived rows, and the rounding of the printed tables."""

from __future__ import annotations

import math

import pytest

from layertune.report.paper_claims import (
    LEFT_OUT,
    ClaimColumn,
    Tally,
    all_hold,
    any_holds,
    so_many_hold,
    with_derived_rows,
)
from layertune.report.rounding import as_printed, printed

SST2, COLA = ClaimColumn("sst2", "accuracy"), ClaimColumn("cola", "accuracy")


def numbers(**rows):
    """Return a table with one task, sst2: row -> number."""
    return lambda row, task, metric, model: rows.get(row) if (task, metric) == ("sst2", "accuracy") else None


def test_a_missing_answer_leaves_all_open_unless_one_already_fails():
    assert all_hold([True, True]) is True
    assert all_hold([True, None]) is None
    assert all_hold([True, None, False]) is False
    assert all_hold([]) is True


def test_a_share_is_decided_as_soon_as_the_open_answers_cannot_turn_it():
    assert all_hold([True, True, False, False], share=0.5) is True
    assert all_hold([True, True, None, None], share=0.5) is True
    assert all_hold([True, None, False, False], share=0.5) is None
    assert all_hold([None, False, False, False], share=0.5) is False
    assert all_hold([True] * 55 + [False] * 45, share=0.55) is True  # 0.55 * 100 = 55.00000000000001


def test_a_missing_answer_leaves_any_open_unless_one_already_holds():
    assert any_holds([False, True, None]) is True
    assert any_holds([False, None]) is None
    assert any_holds([False, False]) is False


def test_what_is_left_out_neither_holds_nor_fails_and_a_count_cannot_rest_on_it():
    assert all_hold([True, LEFT_OUT]) is True
    assert all_hold([LEFT_OUT, False]) is False
    assert all_hold([True, False, LEFT_OUT, LEFT_OUT], share=0.5) is True  # one of the two that count
    assert all_hold([LEFT_OUT, LEFT_OUT]) == any_holds([LEFT_OUT]) == LEFT_OUT
    assert any_holds([LEFT_OUT, False]) is False
    assert so_many_hold(2, [True, LEFT_OUT, False]) is None
    assert so_many_hold(3, [True, LEFT_OUT, False]) is False


def test_printed_rounding_is_half_up_even_where_floats_are_not():
    assert (
        as_printed((89.0 + 51.1 + 86.0 + 85.4 + 86.3 + 93.0 + 93.1 + 80.5) / 8, 1) == 83.1
    )  # adapters: 83.05
    assert as_printed(2.675, 2) == 2.68  # the float is below 2.675
    assert as_printed(-0.25, 1) == -0.3
    assert (printed(83.05, 1), printed(0.25, 1, "+"), printed(-0.04, 1, "+")) == ("83.1", "+0.3", "+0.0")


def test_derived_rows_are_the_best_or_the_mean_of_their_parts():
    value = with_derived_rows(numbers(high_k=1.0, low_k=4.0, block_high=2.0, block_low=3.0))
    assert value("ours_best", "sst2", "accuracy", "bert") == 4.0
    assert value("ours_mean", "sst2", "accuracy", "bert") == 2.5
    assert value("best:high_k+block_high", "sst2", "accuracy", "bert") == 2.0
    assert value("mean:high_k+block_high", "sst2", "accuracy", "bert") == 1.5
    assert value("low_k", "sst2", "accuracy", "bert") == 4.0


def test_a_derived_row_with_a_missing_part_does_not_exist():
    value = with_derived_rows(numbers(high_k=1.0, low_k=4.0, block_high=2.0))
    assert value("ours_best", "sst2", "accuracy", "bert") is None
    assert value("best:high_k+low_k", "sst2", "accuracy", "bert") == 4.0


def test_a_printed_best_row_goes_before_the_derived_one():
    value = with_derived_rows(numbers(ours_best=7.0, high_k=1.0, low_k=1.0, block_high=1.0, block_low=1.0))
    assert value("ours_best", "sst2", "accuracy", "bert") == 7.0


def test_a_derived_row_has_no_standard_deviation():
    value = with_derived_rows(lambda row, task, metric, model: 1.0 if row != "ours_best" else None)
    assert value("ours_best", "sst2", "accuracy_std", "bert") is None


@pytest.mark.parametrize(
    ("first", "second", "margin", "lower", "answer"),
    [
        (2.0, 1.0, None, False, True),
        (1.0, 1.0, None, False, False),  # a tie is no win
        (1.0, 1.0, 0.0, False, True),
        (87.2, 86.9, 0.3, False, True),  # as floats 0.29999999999999716
        (68.9, 69.3, -0.4, False, True),  # as floats -0.39999999999999147
        (1.0, 2.0, None, True, True),
        (1.0, None, None, False, None),
    ],
)
def test_a_comparison_is_strict_without_a_margin_and_free_of_float_noise(
    first, second, margin, lower, answer
):
    tally = Tally(numbers(a=first, b=second))
    assert tally.ahead("a", "b", SST2, margin, lower_is_better=lower) is answer


def test_a_verdict_counts_and_names_what_speaks_against_it():
    tally = Tally(numbers(a=1.0, b=2.0, c=0.5))
    verdict = tally.verdict(all_hold([tally.ahead("a", "b", SST2), tally.ahead("a", "c", SST2)]))
    assert verdict.status == "does_not_hold"
    assert verdict.numbers == {"a - b, bert/sst2 accuracy": -1.0, "a - c, bert/sst2 accuracy": 0.5}
    assert verdict.reason == "1 of 2 comparisons hold; against it: a - b is -1 on bert/sst2 accuracy"


def test_an_open_verdict_names_the_missing_numbers_once_and_counts_the_rest():
    tally = Tally(numbers())
    for column in (SST2, SST2, COLA):
        tally.gap("a", "b", column)
    tally.get("c", SST2)
    verdict = tally.verdict(None)
    assert verdict.status == "not_enough_runs"
    assert verdict.reason == (
        "missing: a bert/sst2 accuracy, b bert/sst2 accuracy, a bert/cola accuracy, b bert/cola accuracy "
        "and 1 more"
    )


def test_an_average_needs_all_its_columns():
    assert Tally(numbers(a=1.0)).averages(["a"], [SST2]) == [1.0]
    assert Tally(numbers(a=1.0)).averages(["a"], [SST2, COLA]) == [None]


def test_runs_that_learned_nothing_are_no_part_of_a_best_of_a_comparison_or_of_an_average():
    value = with_derived_rows(numbers(high_k=math.nan, low_k=4.0))
    assert value("best:high_k+low_k", "sst2", "accuracy", "bert") == 4.0
    assert math.isnan(with_derived_rows(numbers(high_k=math.nan))("high_k", "sst2", "accuracy", "bert"))
    tally = Tally(
        lambda row, task, *_: math.nan if (row, task) == ("a", "cola") else {"a": 3.0, "b": 1.0}[row]
    )
    assert tally.ahead("a", "b", COLA) == LEFT_OUT
    assert tally.averages(["a", "b"], [SST2, COLA]) == [3.0, 1.0]  # CoLA counts for neither
    assert tally.verdict(LEFT_OUT).status == "not_enough_runs"


@pytest.mark.parametrize(
    ("gap", "margin", "answer"),
    [(2.5, None, True), (-2.5, None, False), (2.0, None, None), (0.4, -1.0, None), (1.5, -1.0, True)],
)
def test_with_noise_only_what_lies_beyond_it_is_an_answer(gap, margin, answer):
    tally = Tally(numbers(a=50.0 + gap, b=50.0), noise=lambda row, other, column: 2.0)
    assert tally.ahead("a", "b", SST2, margin) is answer
