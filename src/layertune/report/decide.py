"""Is what our numbers say of a claim more than noise? Two ways to be sure, and a third answer.

*On average*: each two rows that a claim compares are tested over tasks and seeds (`paired`). A claim whose
means satisfy it holds when every test says so; one that they violate does not hold when a test, corrected for
their number, says the opposite. *Task by task*: the claim's own predicate is asked again of differences
beyond the noise of seeds, corrected for all that it looks at; that settles what no average can, such as
counts of wins or a single task lost. What is settled neither way is within noise.

A row that is chosen by looking (`best:`, the best of several averages) is chosen on the first seed and tested
on the others.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise, product
from typing import Any, Protocol

from layertune.report.paired import PairedTest, Spread, corrected, paired_test
from layertune.report.paper_claims import (
    LEFT_OUT,
    Answer,
    Claim,
    ClaimColumn,
    Numbers,
    Verdict,
    all_hold,
    any_holds,
    judge,
    one_per,
    parts_of,
    with_derived_rows,
)

STRICT = 0.01  # the chance of one false difference among all that a claim looks at, task by task
COUNTED = ("trainable_parameters",)  # measures that do not vary by chance: a test would say nothing
NO_TEST = {
    "ratio": "a ratio against fixed bounds, no comparison of two rows",
    "no_single_best": "a statement about a whole table; differences are judged task by task",
    "separated": "a statement about a whole table; differences are judged task by task",
}
BY_TASK_ONLY = (*NO_TEST, "count_wins", "largest_difference")  # an average says nothing of these
Seeds = Mapping[int, float]  # seed -> value in the printed unit


class SeededNumbers(Numbers, Protocol):
    """A table of numbers that knows the runs behind them."""

    def per_seed(self, row: str, column: ClaimColumn) -> Mapping[str, Seeds]:
        """Return task -> seed -> value of the runs that learned something; nothing of a best of rows."""
        ...


@dataclass(frozen=True)
class Comparison:
    """Two rows that a claim compares."""

    rows: tuple[str, ...]  # of several the one that is best on average
    other: str  # "" where the row is held against a bound
    columns: tuple[ClaimColumn, ...]
    where: str = ""
    against: float = 0.0  # the claimed difference
    lower_is_better: bool = False


@dataclass(frozen=True)
class Decision:
    """What our numbers say of a claim, and what backs it."""

    verdict: Verdict
    tests: tuple[PairedTest, ...] = ()  # those that speak least for the claim first
    no_test: str = ""  # why there is none; "" where there are some
    by_task: tuple[int, int, int] = (0, 0, 0)  # differences beyond noise for it, against it; all looked at


def decide(claim: Claim, numbers: SeededNumbers) -> Decision:
    """Return what the numbers say of a claim, as far as it is more than noise."""
    point = judge(claim, with_derived_rows(numbers))
    if {column.metric for column in claim.columns} <= set(COUNTED):
        return Decision(point, no_test="counts do not vary by chance")
    compared = list(comparisons(claim))
    noise = _Noise(claim, numbers)
    found = corrected([noise.test(one) for one in compared])
    tests = [test for test in found if test is not None]
    strict = _by_task(claim, noise, point.compared)
    paired = list(zip(compared, found, strict=True))
    average = None if claim.kind in BY_TASK_ONLY else _on_average(claim, paired, bool(point.missing))
    verdict = point
    wanted = {"holds": True, "does_not_hold": False}.get(point.status)
    if wanted is not None and strict.status != point.status and average is not wanted:
        verdict = replace(point, status="not_enough_runs" if point.missing else "within_noise")
    why = "no task and seed is recorded under both rows"
    if any(noise.is_chosen(one) for one in compared):
        why = (
            "a best of rows is chosen on the first seed and tested on the others: "
            "none has the runs of every row"
        )
    no_test = NO_TEST.get(claim.kind, "" if tests else why)
    ordered = sorted(tests, key=lambda test: (test.where, test.lead))
    return Decision(verdict, tuple(ordered), no_test, (strict.held, strict.failed, point.compared))


def comparisons(claim: Claim) -> Iterator[Comparison]:
    """Yield the pairs of rows that a claim compares; metrics of one task, and unlike margins, apart."""
    lower = claim.operands.get("lower_is_better", False) or claim.operands.get("order") == "falling"
    for rows, other, margins in _pairs(claim):
        if rows == (other,):
            continue
        groups: dict[tuple[str, float], list[ClaimColumn]] = {}
        for column, margin in zip(claim.columns, margins, strict=True):
            groups.setdefault((_apart(column, claim.columns), margin), []).append(column)
        for (where, against), columns in groups.items():
            yield Comparison(rows, other, tuple(columns), where, against, lower)


def _pairs(claim: Claim) -> Iterator[tuple[tuple[str, ...], str, Sequence[float]]]:
    """Yield rows that are said to be better, one that is said to be worse, and by how much in each column."""
    given: Mapping[str, Any] = claim.operands
    count = len(claim.columns)
    if claim.kind in NO_TEST:
        return
    if claim.kind == "bounded":
        yield (given["row"],), "", [given["at_least"]] * count
        return
    if claim.kind == "ranking":
        yield from (((row,), other, [0.0] * count) for other, row in pairwise(given["rows"]))
        return
    rows = given["rows"] if "rows" in given else [given["row"]]
    over = given["over"] if isinstance(given["over"], list) else [given["over"]]
    margins = given.get("at_least", 0.0) if claim.kind.startswith("difference") else 0.0
    if claim.kind == "difference_of_row_averages":
        for other, margin in zip(over, one_per(margins, over), strict=True):
            yield tuple(rows), other, [margin] * count
        return
    pairs = zip(rows, over, strict=True) if given.get("pairwise") else product(rows, over)
    yield from (((row,), other, one_per(margins, claim.columns)) for row, other in pairs)


def _apart(column: ClaimColumn, columns: Sequence[ClaimColumn]) -> str:
    """Return the metric where a claim reads several of one task: each is tested apart."""
    same = [one for one in columns if (one.task, one.model) == (column.task, column.model)]
    return column.metric if len(same) > 1 else ""


def _on_average(
    claim: Claim, paired: Sequence[tuple[Comparison, PairedTest | None]], lacks_runs: bool
) -> Answer:
    """Return what the tests together say.

    Where all must hold, each needs no more than its own p: the chance that all mislead is no larger than that
    one does. Everything else is corrected for the number of tests.
    """
    is_some, share = claim.operands.get("quantifier") == "some", claim.operands.get("share", 1.0)
    answers: dict[tuple[str, ...], list[Answer]] = {}
    for one, test in paired:
        answer: Answer = None if lacks_runs else LEFT_OUT
        if test is not None:
            answer = test.decides()
            if not is_some and share == 1.0 and test.decides(corrected=False):
                answer = True
        answers.setdefault(one.rows, []).append(answer)
    if is_some:
        return any_holds(all_hold(own, share) for own in answers.values())
    return all_hold([answer for own in answers.values() for answer in own], share)


def _by_task(claim: Claim, noise: _Noise, looks: int) -> Verdict:
    """Ask the claim's predicate again, of differences beyond noise alone; it looks at `looks` of them."""

    def least(row: str, other: str, column: ClaimColumn) -> float:
        return noise.reach(row, other, column, STRICT / max(looks, 1))

    return judge(claim, noise.numbers, least)


class _Noise:
    """How far numbers may lie apart by chance, as the seeds of a claim's rows tell."""

    def __init__(self, claim: Claim, numbers: SeededNumbers) -> None:
        given = claim.operands
        over = given.get("over", ())
        named = [*given.get("rows", ()), given.get("row"), *([over] if isinstance(over, str) else over)]
        rows = dict.fromkeys(part for row in named if row for part in parts_of(row)[1])
        self._seeded = numbers
        self._point = with_derived_rows(numbers)
        self.runs = cache(self._runs)
        self._is_best = cache(self._is_chosen)
        self._joined = cache(self._join)
        self._rows = cache(self._spread_of)
        self._common = cache(lambda column: sum((self._rows(row, column) for row in rows), Spread()))

    def numbers(self, row: str, task: str, metric: str, model: str) -> float | None:
        """Return a number; of a row chosen by looking the mean of the seeds that did not choose."""
        column = ClaimColumn(task, metric, model)
        point = self._point(row, task, metric, model)
        if point is None or math.isnan(point) or not self._is_best(row, column):
            return point
        seeds = self.runs(row, column).get(task)
        return statistics.fmean(seeds.values()) if seeds else None

    def reach(self, row: str, other: str, column: ClaimColumn, alpha: float) -> float:
        """Return how far two rows of one task must lie apart, at least, to be no noise."""
        seeds = [len(self.runs(name, column).get(column.task, ())) for name in (row, other)]
        return self.spread(row, other, column).reach(min(seeds), alpha)

    def spread(self, row: str, other: str, column: ClaimColumn) -> Spread:
        """Return the spread over seeds within a task: of all the claim's rows, or of the pair if larger."""
        common, own = self._common(column), self._rows(row, column) + self._rows(other, column)
        if own.squares * common.freedom <= common.squares * own.freedom:
            return common
        return Spread(own.deviation**2 * common.freedom, common.freedom)

    def test(self, one: Comparison) -> PairedTest | None:
        """Return the test of a comparison; None where no task and seed is recorded on both sides."""
        joined = {row: self._joined(row, one.columns) for row in one.rows}
        # Of several rows the best, without the seed that chose it.
        name, mine = next(iter(joined.items())) if len(joined) == 1 else _held_out(joined)
        theirs = {} if not one.other else self._joined(one.other, one.columns)
        differences = {}
        for key, seeds in mine.items():
            if not one.other:
                differences[key] = list(seeds.values())
            elif shared := [seed for seed in seeds if seed in theirs.get(key, ())]:
                differences[key] = [seeds[seed] - theirs[key][seed] for seed in shared]
        if not differences:
            return None
        spread = None
        if len(differences) == 1:
            # Of an average over tasks no column is the task's own: its differences alone tell the spread.
            own = [column for column in one.columns if f"{column.model}/{column.task}" in differences]
            spread = self.spread(name, one.other or name, own[0]) if own else None
        return paired_test(
            name,
            one.other,
            dict(sorted(differences.items())),
            one.where,
            one.against,
            one.lower_is_better,
            spread,
            self.is_chosen(one),
        )

    def is_chosen(self, one: Comparison) -> bool:
        """Whether one side of a comparison is the best of several rows."""
        rows = (*one.rows, one.other)
        return len(one.rows) > 1 or any(self._is_best(r, c) for r in rows if r for c in one.columns)

    def _join(self, row: str, columns: tuple[ClaimColumn, ...]) -> dict[str, Seeds]:
        found = ((column, self.runs(row, column)) for column in columns)
        return {f"{column.model}/{task}": seeds for column, own in found for task, seeds in own.items()}

    def _is_chosen(self, row: str, column: ClaimColumn) -> bool:
        return parts_of(row)[0] == "best" and not self._seeded.per_seed(row, column)

    def _runs(self, row: str, column: ClaimColumn) -> Mapping[str, Seeds]:
        """Return task -> seed -> value; of a row chosen by looking without the seed that chose."""
        if not self._is_best(row, column):
            return self._seeded.per_seed(row, column)
        parts = parts_of(row)[1]
        if any(self._seeded(part, column.task, column.metric, column.model) is None for part in parts):
            return {}
        return _held_out({part: self._seeded.per_seed(part, column) for part in parts})[1]

    def _spread_of(self, row: str, column: ClaimColumn) -> Spread:
        found = (self._seeded.per_seed(part, column).get(column.task, {}) for part in parts_of(row)[1])
        return sum((Spread.of(list(seeds.values())) for seeds in found), Spread())


def _held_out(candidates: Mapping[str, Mapping[str, Seeds]]) -> tuple[str, dict[str, Seeds]]:
    """Choose the row that is best on the first seed that all have; return its name and its other seeds.

    Rows without a value learned nothing and are no candidates; without a second seed nothing is returned.
    """
    known = {name: tasks for name, tasks in candidates.items() if tasks}
    if not known:
        return "", {}
    shared = [task for task in next(iter(known.values())) if all(task in own for own in known.values())]
    everywhere = [own[task] for own in known.values() for task in shared]
    seeds = [seed for seed in everywhere[0] if all(seed in own for own in everywhere)] if everywhere else []
    if len(seeds) < 2:
        return next(iter(known)), {}
    best = max(known, key=lambda name: statistics.fmean(known[name][task][seeds[0]] for task in shared))
    others: dict[str, Seeds] = {
        task: {s: v for s, v in own.items() if s != seeds[0]} for task, own in known[best].items()
    }
    return best, others
