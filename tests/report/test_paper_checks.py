"""Each kind of predicate on hand-made tables that give each of the three verdicts."""

from __future__ import annotations

import pytest

from layertune.report.paper_claims import ELSEWHERE, PREDICATES, ClaimColumn, Tally

S, C = ClaimColumn("sst2", "accuracy"), ClaimColumn("cola", "accuracy")
HOLDS, FAILS, OPEN = "holds", "does_not_hold", "not_enough_runs"


def numbers(text: str):
    """Return a table of numbers from `row sst2 cola sst2_std cola_std | ...`; the last may be left off."""
    table = {
        row: [float(number) for number in rest]
        for row, *rest in (line.split() for line in text.split("|") if text)
    }
    at = {"sst2": 0, "cola": 1}

    def value(row, task, metric, model):
        assert model == "bert"
        values = table.get(row, ())
        index = at[task] + (2 if metric.endswith("_std") else 0)
        return values[index] if index < len(values) else None

    return value


def case(kind: str, status: str, text: str, **operands):
    """Return a test case; rows and rivals are given as one string each."""
    for key in ("rows", "over"):
        if key in operands and kind not in ("largest_difference", "ratio"):
            operands[key] = operands[key].split()
    return kind, operands, text, status


CASES = [
    # every row above every other, in every column
    case("outperforms", HOLDS, "a 3 3 | b 2 2 | x 1 1", rows="a b", over="x"),
    case("outperforms", FAILS, "a 3 3 | b 2 1 | x 1 1", rows="a b", over="x"),
    case("outperforms", OPEN, "a 3 3 | b 2 | x 1 1", rows="a b", over="x"),
    case("outperforms", FAILS, "a 0 3 | b 2 | x 1 1", rows="a b", over="x"),
    case("outperforms", HOLDS, "a 1 1 | x 2 3", rows="a", over="x", lower_is_better=True),
    case("outperforms", FAILS, "a 1 4 | x 2 3", rows="a", over="x", lower_is_better=True),
    # one row wins everything; wins spread over two rows do not count
    case("outperforms", HOLDS, "a 0 0 | b 2 2 | x 1 1", rows="a b", over="x", quantifier="some"),
    case("outperforms", FAILS, "a 2 0 | b 0 2 | x 1 1", rows="a b", over="x", quantifier="some"),
    case("outperforms", OPEN, "a 2 | b 0 2 | x 1 1", rows="a b", over="x", quantifier="some"),
    # row by row: a only meets x, b only y
    case("outperforms", HOLDS, "a 2 2 | b 9 9 | x 1 1 | y 5 5", rows="a b", over="x y", pairwise=True),
    case("outperforms", FAILS, "a 2 2 | b 4 9 | x 1 1 | y 5 5", rows="a b", over="x y", pairwise=True),
    # a share of the comparisons
    case("outperforms", HOLDS, "a 2 0 | x 1 1", rows="a", over="x", share=0.5),
    case("outperforms", FAILS, "a 2 0 | x 1 1", rows="a", over="x", share=0.6),
    case("outperforms", OPEN, "a 0 | x 1 1", rows="a", over="x", share=0.5),
    # margins, for all columns or one each
    case("difference", HOLDS, "a 68.9 3 | x 67.5 1", rows="a", over="x", at_least=1.4),
    case("difference", FAILS, "a 68.9 3 | x 67.5 1", rows="a", over="x", at_least=1.5),
    case("difference", OPEN, "a 68.9 | x 67.5 1", rows="a", over="x", at_least=1.4),
    case("difference", HOLDS, "a 68.9 2 | x 69.3 1", rows="a", over="x", at_least=[-0.4, 1]),
    case("difference", FAILS, "a 68.9 2 | x 69.3 1", rows="a", over="x", at_least=[1, -0.4]),
    case("difference", HOLDS, "a 5 0 | b 2 2 | x 1 1", rows="a b", over="x", at_least=1, quantifier="some"),
    case("difference", FAILS, "a 5 0 | b 0 5 | x 1 1", rows="a b", over="x", at_least=1, quantifier="some"),
    case("difference", OPEN, "a 5 0 | b 2 | x 1 1", rows="a b", over="x", at_least=1, quantifier="some"),
    # the largest lead, rounded, is the stated one
    case("largest_difference", HOLDS, "a 5 3.8 | x 4 1", row="a", over="x", equals=3),
    case("largest_difference", FAILS, "a 5 6.7 | x 4 1", row="a", over="x", equals=3),
    case("largest_difference", FAILS, "a 5 3 | x 4 1", row="a", over="x", equals=3),
    case("largest_difference", OPEN, "a 4 | x 1 1", row="a", over="x", equals=3),
    case("largest_difference", OPEN, "a 2 | x 1 1", row="a", over="x", equals=3),
    case("largest_difference", FAILS, "a 9 | x 1 1", row="a", over="x", equals=3),
    case("largest_difference", OPEN, "", row="a", over="x", equals=3),
    # averages: the best of a and b (2.5) against x (1.5)
    case("difference_of_row_averages", HOLDS, "a 1 1 | b 2 3 | x 1 2", rows="a b", over="x", at_least=1.0),
    case("difference_of_row_averages", FAILS, "a 1 1 | b 2 3 | x 1 2", rows="a b", over="x", at_least=1.1),
    case("difference_of_row_averages", OPEN, "a 1 | b 2 3 | x 1 2", rows="a b", over="x", at_least=1.0),
    case("difference_of_row_averages", HOLDS, "a 3 3 | x 2 2 | y 1 1", rows="a", over="x y", at_least=[1, 2]),
    case("difference_of_row_averages", FAILS, "a 3 3 | x 2 2 | y 1 1", rows="a", over="x y", at_least=[2, 1]),
    case("difference_of_row_averages", FAILS, "a 3 3 | x 2 2", rows="a", over="x y", at_least=[2, 1]),
    # 84.95 prints 85.0 and 85.74 prints 85.7: 0.7 as printed, 0.79 unrounded
    case(
        "difference_of_row_averages", HOLDS, "a 84.9 85.0 | x 85.74 85.74", rows="a", over="x", at_least=-0.7
    ),
    case(
        "difference_of_row_averages",
        FAILS,
        "a 84.9 85.0 | x 85.74 85.74",
        rows="a",
        over="x",
        at_least=-0.7,
        decimals=2,
    ),
    # the best row, in every column or on average; it is left out of its rivals
    case("best_of_rows", HOLDS, "a 2 2 | x 1 1", row="a", over="a x"),
    case("best_of_rows", FAILS, "a 5 2 | x 1 2", row="a", over="a x"),
    case("best_of_rows", OPEN, "a 5 2 | x 1", row="a", over="a x"),
    case("best_of_rows", HOLDS, "a 5 2 | x 1 4", row="a", over="a x", average=True),
    case("best_of_rows", FAILS, "a 2 2 | x 1 3", row="a", over="a x", average=True),
    case("best_of_rows", OPEN, "a 5 2 | x 1", row="a", over="a x", average=True),
    case("best_of_rows", HOLDS, "a 1 1 | x 2 2", row="a", over="x", lower_is_better=True),
    # wins per data set
    case("count_wins", HOLDS, "a 3 1 | x 1 1 | y 2 0", rows="a", over="x y", at_least=1),
    case("count_wins", FAILS, "a 3 1 | x 1 1 | y 2 0", rows="a", over="x y", at_least=2),
    case("count_wins", OPEN, "a 3 | x 1 1 | y 2 0", rows="a", over="x y", at_least=2),
    case("count_wins", HOLDS, "a 3 | x 1 1", rows="a", over="x", at_least=1),
    case("count_wins", FAILS, "a 3 3 | b 0 0 | x 1 1", rows="a b", over="x", at_least=1),
    # an order
    case("ranking", HOLDS, "a 1 1 | b 2 2 | c 3 3", rows="a b c"),
    case("ranking", FAILS, "a 1 1 | b 2 3 | c 3 3", rows="a b c"),
    case("ranking", OPEN, "a 1 1 | c 3 3", rows="a b c"),
    case("ranking", HOLDS, "a 2 2 | b 1 1", rows="a b", order="falling"),
    case("ranking", FAILS, "a 1 2 | b 1 1", rows="a b", order="falling"),
    # a quotient and a bound
    case("ratio", HOLDS, "a 1 25 | x 4 100", row="a", over="x", at_least=0.24, at_most=0.26),
    case("ratio", FAILS, "a 1 17 | x 4 100", row="a", over="x", at_least=0.24, at_most=0.26),
    case("ratio", OPEN, "a 1 25 | x 4", row="a", over="x", at_least=0.24, at_most=0.26),
    case("bounded", HOLDS, "a 1.5 2", row="a", at_least=1.5),
    case("bounded", FAILS, "a 1.49 2", row="a", at_least=1.5),
    case("bounded", OPEN, "a 1.5", row="a", at_least=1.5),
    # nobody unbeaten
    case("no_single_best", HOLDS, "a 2 1 | b 1 2", rows="a b"),
    case("no_single_best", FAILS, "a 2 2 | b 1 2", rows="a b"),
    case("no_single_best", OPEN, "a 2 | b 1 2", rows="a b"),
    # a spread beyond the seeds' (third and fourth number: standard deviations)
    case("separated", HOLDS, "a 2 2 0.1 0.3 | b 1 1 0.9 0.2", rows="a b"),
    case("separated", FAILS, "a 2 2 0.1 0.3 | b 1 1 0.9 1.0", rows="a b"),
    case("separated", OPEN, "a 2 2 0.1 0.3 | b 1 1 0.9", rows="a b"),
]


@pytest.mark.parametrize(("kind", "operands", "text", "status"), CASES)
def test_a_predicate_gives_the_verdict_worked_out_by_hand(kind, operands, text, status):
    verdict = PREDICATES[kind](Tally(numbers(text)), columns=[S, C], **operands)
    assert verdict.status == status
    assert verdict.reason


@pytest.mark.parametrize("kind", sorted(set(PREDICATES) - set(ELSEWHERE)))
def test_each_kind_is_tested_with_each_verdict(kind):
    assert {status for name, _, _, status in CASES if name == kind} == {HOLDS, FAILS, OPEN}


@pytest.mark.parametrize(("kind", "operands"), [(k, o) for k, o, _, _ in CASES])
def test_without_any_number_every_claim_stays_open_and_names_what_is_missing(kind, operands):
    verdict = PREDICATES[kind](Tally(numbers("")), columns=[S, C], **operands)
    assert verdict.status == OPEN
    assert "missing: " in verdict.reason


def test_a_data_set_of_several_metrics_is_won_by_more_than_half_of_them():
    scores = {"a": {"bleu": 1, "nist": 3, "cider": 3}, "x": {"bleu": 2, "nist": 2, "cider": 2}}
    columns = [ClaimColumn("e2e", metric, "gpt2") for metric in ("bleu", "nist", "cider")]

    def value(row, task, metric, model):
        return scores[row][metric]

    won = PREDICATES["count_wins"](Tally(value), rows=["a"], over=["x"], columns=columns, at_least=1)
    assert (won.status, won.numbers) == (HOLDS, {"data sets won by a": 1.0})
    tied = PREDICATES["count_wins"](Tally(value), rows=["a"], over=["x"], columns=columns[:2], at_least=1)
    assert (tied.status, tied.numbers) == (FAILS, {"data sets won by a": 0.0})


def test_a_data_set_counts_as_decided_only_when_it_is():
    verdict = PREDICATES["count_wins"](
        Tally(numbers("a 3 | x 1")), rows=["a"], over=["x"], columns=[S, C], at_least=2
    )
    assert verdict.reason.startswith("a wins 1 of 1 decided;")
    none = PREDICATES["count_wins"](Tally(numbers("")), rows=["a"], over=["x"], columns=[S, C], at_least=2)
    assert none.reason.startswith("a wins 0 of 0 decided;")


# With noise of 2 points each way: decided only where the answer is beyond it.
BEYOND = [
    case("outperforms", HOLDS, "a 9 9 | x 1 1", rows="a", over="x"),
    case("outperforms", OPEN, "a 9 2 | x 1 1", rows="a", over="x"),
    case("outperforms", FAILS, "a 9 1 | x 1 9", rows="a", over="x"),
    case("count_wins", FAILS, "a 9 1 | x 1 2 | y 1 9", rows="a", over="x y", at_least=2),
    case("count_wins", OPEN, "a 9 1 | x 1 2 | y 1 0", rows="a", over="x y", at_least=2),
    case("no_single_best", HOLDS, "a 9 1 | b 1 9", rows="a b"),
    case("no_single_best", OPEN, "a 9 1 | b 1 2", rows="a b"),
    case("no_single_best", FAILS, "a 9 9 | b 1 1", rows="a b"),
    case("separated", HOLDS, "a 9 9 0.1 0.1 | b 1 1 0.1 0.1", rows="a b"),
    case("separated", OPEN, "a 9 1 0.1 0.1 | b 1 2 0.1 0.1", rows="a b"),
    case(
        "separated", OPEN, "a 1 1 0.5 0.5 | b 1.1 1.1 0.5 0.5", rows="a b"
    ),  # that nothing differs cannot be shown
    case("largest_difference", FAILS, "a 9 9 | x 3 4", row="a", over="x", equals=3),  # 6, at least 4
    case("largest_difference", OPEN, "a 9 9 | x 6 8", row="a", over="x", equals=3),  # 3, between 1 and 5
    case("largest_difference", FAILS, "a 9 9 | x 9 9", row="a", over="x", equals=3),  # 0, at most 2
    case("difference_of_row_averages", OPEN, "a 9 9 | x 1 1", rows="a", over="x", at_least=1),
    case("bounded", OPEN, "a 9 9", row="a", at_least=1),
]


@pytest.mark.parametrize(("kind", "operands", "text", "status"), BEYOND)
def test_with_noise_a_predicate_answers_only_beyond_it(kind, operands, text, status):
    tally = Tally(numbers(text), noise=lambda row, other, column: 2.0)
    assert PREDICATES[kind](tally, columns=[S, C], **operands).status == status


def test_the_gaps_behind_an_average_claim_are_reported():
    verdict = PREDICATES["difference_of_row_averages"](
        Tally(numbers("a 1 1 | b 2 3 | x 1 2")), rows=["a", "b"], over=["x"], columns=[S, C], at_least=1.0
    )
    assert verdict.numbers == {"best average - x": 1.0}
