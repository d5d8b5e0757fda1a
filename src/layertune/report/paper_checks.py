"""The predicates behind the claims: pure functions of a table of numbers, the paper's or ours, all alike.

Each takes the table of numbers and its operands by name (as `results/paper/claims.yaml` gives them) and
returns a `Verdict`: holds, does not hold, or not enough runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from layertune.report.verdicts import Column, Numbers, Tally, Verdict, all_hold, any_holds, as_printed

Quantifier = Literal["each", "some"]


def outperforms(
    value: Numbers,
    *,
    rows: Sequence[str],
    over: Sequence[str],
    columns: Sequence[Column],
    quantifier: Quantifier = "each",
    pairwise: bool = False,
    share: float = 1.0,
    lower_is_better: bool = False,
) -> Verdict:
    """Is each (or some one) of `rows` better than every row of `over` in every column?

    Args:
        value: the table of numbers.
        rows: the rows that should be better.
        over: the rows that should be worse.
        columns: where to compare.
        quantifier: `some`: one row must win all (or `share` of) its own comparisons.
        pairwise: compare `rows[i]` with `over[i]` only.
        share: the share of comparisons to win.
        lower_is_better: for costs.
    """
    tally = Tally(value)
    answers = []
    for index, row in enumerate(rows):
        rivals = [over[index]] if pairwise else over
        pairs = [(other, column) for other in rivals for column in columns]
        answers.append([tally.ahead(row, *pair, lower_is_better=lower_is_better) for pair in pairs])
    if quantifier == "some":
        return tally.verdict(any_holds(all_hold(own, share) for own in answers))
    return tally.verdict(all_hold([answer for own in answers for answer in own], share))


def difference(
    value: Numbers,
    *,
    rows: Sequence[str],
    over: Sequence[str],
    columns: Sequence[Column],
    at_least: float | Sequence[float],
    quantifier: Quantifier = "each",
) -> Verdict:
    """Is each (or some one) of `rows` ahead of every row of `over` by `at_least`?

    `at_least` is one number, or one per column; a negative one reads "at most so much behind".
    """
    tally = Tally(value)
    margins = list(zip(columns, _one_per(at_least, columns), strict=True))
    answers = [
        all_hold([tally.ahead(row, other, column, margin) for other in over for column, margin in margins])
        for row in rows
    ]
    return tally.verdict(any_holds(answers) if quantifier == "some" else all_hold(answers))


def largest_difference(
    value: Numbers, *, row: str, over: str, columns: Sequence[Column], equals: float, decimals: int = 0
) -> Verdict:
    """Is the largest lead of `row` over `over`, rounded to `decimals`, the stated one ("by up to")?"""
    tally = Tally(value)
    gaps = {column: tally.gap(row, over, column) for column in columns}
    known = {column: gap for column, gap in gaps.items() if gap is not None}
    if not known:
        return tally.verdict(None)
    where = max(known, key=lambda column: known[column])
    tally.numbers[f"largest {row} - {over}, {where}"] = known[where]
    largest = as_printed(known[where], decimals)
    if largest > equals:
        return tally.verdict(False)  # further numbers cannot make it smaller
    return tally.verdict(largest == equals if len(known) == len(gaps) else None)


def difference_of_row_averages(
    value: Numbers,
    *,
    rows: Sequence[str],
    over: Sequence[str],
    columns: Sequence[Column],
    at_least: float | Sequence[float],
    decimals: int = 1,
) -> Verdict:
    """Is the best average of `rows` ahead of each average of `over` by `at_least`?

    `at_least` is one number, or one per row of `over`. Averages are rounded to `decimals` first,
    as a table prints them: the paper's differences are of those.
    """
    tally = Tally(value)
    ours = [tally.average(row, columns) for row in rows]
    known = [average for average in ours if average is not None]
    best = as_printed(max(known), decimals) if len(known) == len(ours) else None
    answers: list[bool | None] = []
    for other, margin in zip(over, _one_per(at_least, over), strict=True):
        theirs = tally.average(other, columns)
        if best is None or theirs is None:
            answers.append(None)
            continue
        gap = round(best - as_printed(theirs, decimals), 9)
        tally.numbers[f"best average - {other}"] = gap
        answers.append(gap >= margin)
    return tally.verdict(all_hold(answers))


def best_of_rows(
    value: Numbers,
    *,
    row: str,
    over: Sequence[str],
    columns: Sequence[Column],
    average: bool = False,
    lower_is_better: bool = False,
) -> Verdict:
    """Is `row` better than every other row of `over` in every column, or on (unrounded) average?"""
    others = [other for other in over if other != row]
    if not average:
        return outperforms(value, rows=[row], over=others, columns=columns, lower_is_better=lower_is_better)

    def averages(row: str, task: str, metric: str, model: str) -> float | None:
        return Tally(value).average(row, columns)

    average_of = [Column("average", "mean", columns[0].model)]
    return outperforms(averages, rows=[row], over=others, columns=average_of, lower_is_better=lower_is_better)


def count_wins(
    value: Numbers, *, rows: Sequence[str], over: Sequence[str], columns: Sequence[Column], at_least: int
) -> Verdict:
    """Does each of `rows` win on `at_least` data sets?

    A data set is won by beating every row of `over` in more than half of its columns (E2E: three of five).
    """
    sets: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        sets.setdefault((column.model, column.task), []).append(column)
    tally = Tally(value)
    answers = []
    for row in rows:
        wins: dict[str, bool | None] = {}
        for (_, task), own in sets.items():
            gaps = [[tally.gap(row, other, column) for other in over] for column in own]
            leads = [all_hold([None if gap is None else gap > 0 for gap in each]) for each in gaps]
            wins[task] = all_hold(leads, (len(own) // 2 + 1) / len(own))
        won = list(wins.values())
        tally.numbers[f"data sets won by {row}"] = float(won.count(True))
        answers.append(all_hold(won, at_least / len(won)))
        if False in won:
            lost = [task for task, answer in wins.items() if answer is False]
            tally.against.append(f"{row} wins {won.count(True)} of {len(won)}, not {' '.join(lost)}")
    return tally.verdict(all_hold(answers))


def ranking(
    value: Numbers,
    *,
    rows: Sequence[str],
    columns: Sequence[Column],
    order: Literal["rising", "falling"] = "rising",
) -> Verdict:
    """Do the numbers of `rows`, in this order, rise (or fall) strictly in every column?"""
    falling = order == "falling"
    return outperforms(
        value, rows=rows[1:], over=rows[:-1], columns=columns, pairwise=True, lower_is_better=falling
    )


def ratio(
    value: Numbers, *, row: str, over: str, columns: Sequence[Column], at_least: float, at_most: float
) -> Verdict:
    """Is `row` divided by `over` between `at_least` and `at_most` in every column?"""
    tally = Tally(value)
    answers: list[bool | None] = []
    for column in columns:
        mine, theirs = tally.get(row, column), tally.get(over, column)
        if mine is None or theirs is None:
            answers.append(None)
            continue
        tally.numbers[f"{row} / {over}, {column}"] = mine / theirs
        answers.append(at_least <= mine / theirs <= at_most)
    return tally.verdict(all_hold(answers))


def bounded(value: Numbers, *, row: str, columns: Sequence[Column], at_least: float) -> Verdict:
    """Is the number of `row` at least so large in every column?"""
    tally = Tally(value)
    answers: list[bool | None] = []
    for column in columns:
        number = tally.get(row, column)
        if number is not None:
            tally.numbers[f"{row} {column}"] = number
        answers.append(None if number is None else number >= at_least)
    return tally.verdict(all_hold(answers))


def no_single_best(value: Numbers, *, rows: Sequence[str], columns: Sequence[Column]) -> Verdict:
    """Is every one of `rows` beaten by another of them in at least one column?"""
    tally = Tally(value)
    answers = []
    for row in rows:
        gaps = [tally.gap(row, other, column) for column in columns for other in rows if other != row]
        beaten = [None if gap is None else gap < 0 for gap in gaps]
        tally.numbers[f"times {row} is beaten"] = float(beaten.count(True))
        answers.append(any_holds(beaten))
    return tally.verdict(all_hold(answers))


def separated(value: Numbers, *, rows: Sequence[str], columns: Sequence[Column]) -> Verdict:
    """Is best minus worst of `rows` larger than the largest standard deviation among them, everywhere?"""
    tally = Tally(value)
    answers: list[bool | None] = []
    for column in columns:
        deviation = Column(column.task, f"{column.metric}_std", column.model)
        found = [(tally.get(row, column), tally.get(row, deviation)) for row in rows]
        pairs = [(mean, std) for mean, std in found if mean is not None and std is not None]
        if len(pairs) < len(rows):
            answers.append(None)
            continue
        means, stds = zip(*pairs, strict=True)
        spread = round(max(means) - min(means), 9)
        tally.numbers |= {f"best - worst, {column}": spread, f"largest std, {column}": max(stds)}
        answers.append(spread > max(stds))
    return tally.verdict(all_hold(answers))


PREDICATES: dict[str, Callable[..., Verdict]] = {
    "outperforms": outperforms,
    "difference": difference,
    "largest_difference": largest_difference,
    "difference_of_row_averages": difference_of_row_averages,
    "best_of_rows": best_of_rows,
    "count_wins": count_wins,
    "ranking": ranking,
    "ratio": ratio,
    "bounded": bounded,
    "no_single_best": no_single_best,
    "separated": separated,
}


def _one_per(number: float | Sequence[float], items: Sequence[object]) -> Sequence[float]:
    """Return one number per item."""
    return number if isinstance(number, Sequence) else [number] * len(items)
