"""The predicates behind the claims: functions of a tally over a table of numbers, the paper's or ours alike.

Each takes a fresh tally and its operands by name (as `results/paper/claims.yaml` gives them) and returns a
`Verdict`: holds, does not hold, or not enough runs. A tally with noise asks the same of differences beyond
it; what is no statement about single differences stays open then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Literal

from layertune.report.rounding import as_printed
from layertune.report.verdicts import (
    LEFT_OUT,
    Answer,
    Column,
    Tally,
    Verdict,
    all_hold,
    any_holds,
    so_many_hold,
)

Quantifier = Literal["each", "some"]


def outperforms(
    tally: Tally,
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
        tally: reads the table of numbers.
        rows: the rows that should be better.
        over: the rows that should be worse.
        columns: where to compare.
        quantifier: `some`: one row must win all (or `share` of) its own comparisons.
        pairwise: compare `rows[i]` with `over[i]` only.
        share: the share of comparisons to win.
        lower_is_better: for costs.
    """
    answers = []
    for index, row in enumerate(rows):
        rivals = [over[index]] if pairwise else over
        pairs = [(other, column) for other in rivals for column in columns]
        answers.append([tally.ahead(row, *pair, lower_is_better=lower_is_better) for pair in pairs])
    if quantifier == "some":
        return tally.verdict(any_holds(all_hold(own, share) for own in answers))
    return tally.verdict(all_hold([answer for own in answers for answer in own], share))


def difference(
    tally: Tally,
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
    margins = list(zip(columns, _one_per(at_least, columns), strict=True))
    answers = [
        all_hold([tally.ahead(row, other, column, margin) for other in over for column, margin in margins])
        for row in rows
    ]
    return tally.verdict(any_holds(answers) if quantifier == "some" else all_hold(answers))


def largest_difference(
    tally: Tally, *, row: str, over: str, columns: Sequence[Column], equals: float, decimals: int = 0
) -> Verdict:
    """Is the largest lead of `row` over `over`, rounded to `decimals`, the stated one ("by up to")?"""
    gaps = {column: tally.gap(row, over, column) for column in columns}
    known = {column: gap for column, gap in gaps.items() if gap is not None and not math.isnan(gap)}
    if not known:
        return tally.verdict(None)
    where = max(known, key=lambda column: known[column])
    tally.numbers[f"largest {row} - {over}, {where}"] = known[where]
    noise = 0.0 if tally.noise is None else tally.noise(row, over, where)
    if not math.isfinite(noise):
        return tally.verdict(None)
    least, most = (as_printed(known[where] + error, decimals) for error in (-noise, noise))
    if least > equals:
        return tally.verdict(False)  # further numbers cannot make it smaller
    if None in gaps.values() or (least != most and most >= equals):
        return tally.verdict(None)
    return tally.verdict(least == equals == most)


def difference_of_row_averages(
    tally: Tally,
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
    if tally.noise is not None:
        return tally.verdict(None)
    answers: list[Answer] = []
    for other, margin in zip(over, _one_per(at_least, over), strict=True):
        *ours, theirs = tally.averages([*rows, other], columns)
        known = [average for average in ours if average is not None]
        if len(known) < len(ours) or theirs is None:
            answers.append(None)
        elif math.isnan(theirs):
            answers.append(LEFT_OUT)
        else:
            gap = round(as_printed(max(known), decimals) - as_printed(theirs, decimals), 9)
            tally.numbers[f"best average - {other}"] = gap
            answers.append(gap >= margin)
    return tally.verdict(all_hold(answers))


def best_of_rows(
    tally: Tally,
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
        return outperforms(tally, rows=[row], over=others, columns=columns, lower_is_better=lower_is_better)
    if tally.noise is not None:
        return tally.verdict(None)
    mean = Column("average", "mean", columns[0].model)
    return tally.verdict(
        all_hold(
            [tally.ahead(row, other, mean, over=columns, lower_is_better=lower_is_better) for other in others]
        )
    )


def count_wins(
    tally: Tally, *, rows: Sequence[str], over: Sequence[str], columns: Sequence[Column], at_least: int
) -> Verdict:
    """Does each of `rows` win on `at_least` data sets?

    A data set is won by beating every row of `over` in more than half of its columns (E2E: three of five).
    """
    sets: dict[tuple[str, str], list[Column]] = {}
    for column in columns:
        sets.setdefault((column.model, column.task), []).append(column)
    answers = []
    for row in rows:
        wins: dict[str, Answer] = {}
        for (_, task), own in sets.items():
            leads = [
                all_hold([tally.ahead(row, other, column, told=False) for other in over]) for column in own
            ]
            wins[task] = all_hold(leads, (len(own) // 2 + 1) / len(own))
        found = list(wins.values())
        lost = [task for task, answer in wins.items() if answer is False]
        won, decided = found.count(True), found.count(True) + len(lost)
        tally.numbers[f"data sets won by {row}"] = float(won)
        tally.told.append(
            f"{row} wins {won} of {decided} decided" + (f", not {' '.join(lost)}" if lost else "")
        )
        answers.append(so_many_hold(at_least, found))
    return tally.verdict(all_hold(answers))


def ranking(
    tally: Tally,
    *,
    rows: Sequence[str],
    columns: Sequence[Column],
    order: Literal["rising", "falling"] = "rising",
) -> Verdict:
    """Do the numbers of `rows`, in this order, rise (or fall) strictly in every column?"""
    falling = order == "falling"
    return outperforms(
        tally, rows=rows[1:], over=rows[:-1], columns=columns, pairwise=True, lower_is_better=falling
    )


def ratio(
    tally: Tally, *, row: str, over: str, columns: Sequence[Column], at_least: float, at_most: float
) -> Verdict:
    """Is `row` divided by `over` between `at_least` and `at_most` in every column?"""
    if tally.noise is not None:
        return tally.verdict(None)
    answers: list[bool | None] = []
    for column in columns:
        mine, theirs = tally.get(row, column), tally.get(over, column)
        if mine is None or theirs is None:
            answers.append(None)
            continue
        tally.numbers[f"{row} / {over}, {column}"] = mine / theirs
        answers.append(at_least <= mine / theirs <= at_most)
    return tally.verdict(all_hold(answers))


def bounded(tally: Tally, *, row: str, columns: Sequence[Column], at_least: float) -> Verdict:
    """Is the number of `row` at least so large in every column?"""
    if tally.noise is not None:
        return tally.verdict(None)
    answers: list[bool | None] = []
    for column in columns:
        number = tally.get(row, column)
        if number is not None:
            tally.numbers[f"{row} {column}"] = number
        answers.append(None if number is None else number >= at_least)
    return tally.verdict(all_hold(answers))


def no_single_best(tally: Tally, *, rows: Sequence[str], columns: Sequence[Column]) -> Verdict:
    """Is every one of `rows` beaten by another of them in at least one column?"""
    answers = []
    for row in rows:
        beaten = [
            tally.ahead(other, row, column, told=False)
            for column in columns
            for other in rows
            if other != row
        ]
        tally.numbers[f"times {row} is beaten"] = float(beaten.count(True))
        answers.append(any_holds(beaten))
    return tally.verdict(all_hold(answers))


def separated(tally: Tally, *, rows: Sequence[str], columns: Sequence[Column]) -> Verdict:
    """Is best minus worst of `rows` larger than the largest standard deviation among them, everywhere?

    Beyond noise: is there a difference of two rows beyond it, everywhere? That there is none cannot be shown.
    """
    answers: list[Answer] = []
    for column in columns:
        leads = [tally.ahead(*pair, column, told=False) for pair in combinations(rows, 2)]
        if tally.noise is not None:
            answers.append(any_holds(True if answer is False else answer for answer in leads))
            continue
        deviation = Column(column.task, f"{column.metric}_std", column.model)
        found = [(tally.get(row, column), tally.get(row, deviation)) for row in rows]
        pairs = [(mean, std) for mean, std in found if mean is not None and std is not None]
        learned = [(mean, std) for mean, std in pairs if not math.isnan(mean)]
        if len(pairs) < len(rows) or len(learned) < 2:
            answers.append(None if len(pairs) < len(rows) else LEFT_OUT)
            continue
        means, stds = zip(*learned, strict=True)
        spread = round(max(means) - min(means), 9)
        tally.numbers |= {f"best - worst, {column}": spread, f"largest std, {column}": max(stds)}
        answers.append(spread > max(stds))
    return tally.verdict(all_hold(answers))


def layer_choice(tally: Tally, *, columns: Sequence[Column]) -> Verdict:
    """Does the choice of layers follow the task? No table of numbers says: `choice` judges layer scores."""
    return Verdict("not_enough_runs", {}, "no table of numbers says")


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
    "layer_choice": layer_choice,
}


def _one_per(number: float | Sequence[float], items: Sequence[object]) -> Sequence[float]:
    """Return one number per item."""
    return number if isinstance(number, Sequence) else [number] * len(items)
