"""The paper's claims as data (`results/paper/claims.yaml`), and the predicates that judge them.

A claim names a predicate and its operands; no verdict is written down. A predicate compares numbers of any
table, the paper's (`paper_numbers`) or ours: `value(row, task, metric, model) -> float | None` in printed
units, where None says that the number is not there (yet) and nan that its runs learned nothing. It answers in
three-valued logic: an open answer leaves a question open only where it could still turn it; what compares
with runs that learned nothing is left out. Asked of differences beyond noise, what is no statement about
single differences stays open.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, Protocol

from layertune.errors import ConfigError
from layertune.report.paper import PAPER_FOLDER, PaperTables, read_yaml, refuse_twice, validated
from layertune.report.rounding import as_printed

Status = Literal["holds", "does_not_hold", "within_noise", "not_enough_runs"]
Answer = Literal["left out"] | bool | None
LEFT_OUT: Literal["left out"] = "left out"
SHOWN = 4  # counterexamples or missing numbers that a reason names
STRATEGIES = ("high_k", "low_k", "block_high", "block_low")
DERIVED_ROWS = {
    "ours_best": "best:" + "+".join(STRATEGIES),  # per column: Tables 5, 8, 10
    "ours_mean": "mean:" + "+".join(STRATEGIES),  # Table 4
    # Choice: [Table 5, I/O similarity] the better of the two: the paper does not say which of them it prints.
    "io": "best:io_low_k+io_high_k",
}


class Numbers(Protocol):
    """A table of numbers in printed units; the metric `<metric>_std` is the standard deviation over seeds."""

    def __call__(self, row: str, task: str, metric: str, model: str) -> float | None:
        """Return one number, None where it does not exist, nan where its runs learned nothing."""
        ...


@dataclass(frozen=True)
class ClaimColumn:
    """One column of a table: a metric of a task, of one model."""

    task: str
    metric: str
    model: str = "bert"

    def __str__(self) -> str:
        return f"{self.model}/{self.task} {self.metric}"


Rows = Sequence[str]
Columns = Sequence[ClaimColumn]
Noise = Callable[[str, str, ClaimColumn], float]  # (row, other, column) -> the least difference beyond noise


@dataclass(frozen=True)
class Verdict:
    """What the numbers say about a claim."""

    status: Status
    numbers: dict[str, float]  # what the answer rests on, by name
    reason: str
    compared: int = 0  # differences that were looked at, and of these
    held: int = 0  # for the claim
    failed: int = 0  # against it
    missing: tuple[str, ...] = ()  # numbers that were asked for


@dataclass(frozen=True)
class Elsewhere:
    """What judges a claim that no table of numbers settles: layer scores, or landscapes."""

    source: str  # what it is read from, as it is printed
    verdict: Verdict
    told: tuple[str, ...]  # sentences printed below the reason
    numbers: Mapping[str, Any]  # all that is known, for JSON


@cache
def parts_of(row: str) -> tuple[str, tuple[str, ...]]:
    """Return how a row is derived (best, mean, or "" for a row of its own), and from which rows."""
    how, _, parts = DERIVED_ROWS.get(row, row).partition(":")
    return (how, tuple(parts.split("+"))) if parts else ("", (row,))


def with_derived_rows(value: Numbers) -> Numbers:
    """Return `value` with the rows `best:a+b`, `mean:a+b` and DERIVED_ROWS, computed where `value` has none.

    A derived number is None as soon as one part is missing, and it has no standard deviation. The best is one
    of the parts that learned something.
    """

    def derived(row: str, task: str, metric: str, model: str) -> float | None:
        found = value(row, task, metric, model)
        how, parts = parts_of(row)
        if found is not None or not how or metric.endswith("_std"):
            return found
        values = [value(part, task, metric, model) for part in parts]
        known = [number for number in values if number is not None]
        if len(known) < len(values):
            return None
        if how == "best":
            return max((number for number in known if not math.isnan(number)), default=math.nan)
        return sum(known) / len(known)

    return derived


def all_hold(answers: Iterable[Answer], share: float = 1.0) -> Answer:
    """Do all (or at least `share` of) the answers hold? None while the open ones decide."""
    given = list(answers)
    counted = [answer for answer in given if answer != LEFT_OUT]
    if given and not counted:
        return LEFT_OUT
    return so_many_hold(math.ceil(share * len(counted) - 1e-9), counted)


def so_many_hold(needed: int, answers: Sequence[Answer]) -> bool | None:
    """Do so many of the answers hold? None while the open ones, and those left out, decide."""
    held = answers.count(True)
    if held >= needed:
        return True
    return None if held + answers.count(None) + answers.count(LEFT_OUT) >= needed else False


def any_holds(answers: Iterable[Answer]) -> Answer:
    """Does one of the answers hold? None while an open one decides."""
    given = list(answers)
    if given and all(answer == LEFT_OUT for answer in given):
        return LEFT_OUT
    return True if True in given else None if None in given else False


class Tally:
    """Reads numbers, compares them, and remembers what was found for the verdict."""

    def __init__(self, value: Numbers, noise: Noise | None = None) -> None:
        """Start with nothing read. With `noise` a comparison within it is open, whatever the numbers."""
        self.numbers: dict[str, float] = {}
        self.against: list[str] = []  # counterexamples
        self.told: list[str] = []  # what was counted, in words
        self.noise = noise
        self.held = self.failed = 0  # comparisons
        self._value = value
        self._answers: list[bool] = []  # of the comparisons that the verdict tells
        self._read: dict[tuple[str, ClaimColumn], float | None] = {}  # in the order asked
        self._pairs: set[tuple[str, str, ClaimColumn]] = set()

    def get(self, row: str, column: ClaimColumn) -> float | None:
        """Return one number; it is remembered."""
        key = (row, column)
        if key not in self._read:
            self._read[key] = self._value(row, column.task, column.metric, column.model)
        return self._read[key]

    def gap(self, row: str, other: str, column: ClaimColumn) -> float | None:
        """Return `row` minus `other`, free of float noise."""
        mine, theirs = self.get(row, column), self.get(other, column)
        if mine is None or theirs is None:
            return None
        self._pairs.add((min(row, other), max(row, other), column))
        return round(mine - theirs, 9)

    def ahead(
        self,
        row: str,
        other: str,
        column: ClaimColumn,
        margin: float | None = None,
        *,
        over: Columns = (),
        lower_is_better: bool = False,
        told: bool = True,
    ) -> Answer:
        """Is `row` better than `other` (by at least `margin`, where one is given)?

        Args:
            row: that should be better.
            other: that should be worse.
            column: where to compare, or what the average over others is called,
            over: which are these.
            margin: how far `row` must lead.
            lower_is_better: for costs.
            told: whether the verdict tells the gap.
        """
        if over:
            mine, theirs = self.averages([row, other], over)
            gap = None if mine is None or theirs is None else round(mine - theirs, 9)
        else:
            gap = self.gap(row, other, column)
        if gap is None:
            return None
        if math.isnan(gap):
            return LEFT_OUT
        lead = -gap if lower_is_better else gap
        noise = 0.0 if self.noise is None else self.noise(row, other, column)
        if noise and abs(lead - (margin or 0.0)) <= noise:
            return None
        answer = lead > 0 if margin is None else lead >= margin
        self.held += answer
        self.failed += not answer
        if told:
            self._answers.append(answer)
            self.numbers[f"{row} - {other}, {column}"] = gap
            if not answer:
                self.against.append(f"{row} - {other} is {gap:+.4g} on {column}")
        return answer

    def averages(self, rows: Rows, columns: Columns) -> list[float | None]:
        """Return the mean of each row over the columns, those left out where a row learned nothing.

        None for a row that lacks a number; nan where no column is left.
        """
        found = [[self.get(row, column) for row in rows] for column in columns]
        kept = [numbers for numbers in found if not any(n is not None and math.isnan(n) for n in numbers)]
        if not kept:
            return [math.nan] * len(rows)
        by_row = [[n for n in own if n is not None] for own in zip(*kept, strict=True)]
        return [sum(own) / len(own) if len(own) == len(kept) else None for own in by_row]

    def verdict(self, answer: Answer) -> Verdict:
        """Return the verdict with its reason."""
        compared = len(self._answers)
        parts = [f"{sum(self._answers)} of {compared} comparisons hold"] if compared else []
        parts += self.told
        if self.against:
            parts.append(("except: " if answer is True else "against it: ") + _first(self.against))
        if self.numbers and not compared and not self.told:
            parts.append(_first([f"{name} {number:.4g}" for name, number in self.numbers.items()]))
        missing = [f"{row} {column}" for (row, column), number in self._read.items() if number is None]
        if answer is None and missing:
            parts.append("missing: " + _first(missing))
        if answer == LEFT_OUT:
            parts.append("nothing is left that learned something")
        is_open = answer is None or answer == LEFT_OUT
        status: Status = "not_enough_runs" if is_open else "holds" if answer else "does_not_hold"
        looks = (len(self._pairs), self.held, self.failed)
        return Verdict(status, self.numbers, "; ".join(parts), *looks, tuple(missing))


def _first(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


Quantifier = Literal["each", "some"]


def outperforms(
    tally: Tally,
    *,
    rows: Rows,
    over: Rows,
    columns: Columns,
    quantifier: Quantifier = "each",
    pairwise: bool = False,
    share: float = 1.0,
    lower_is_better: bool = False,
    at_least: float | Sequence[float] | None = None,
) -> Verdict:
    """Is each (or some one) of `rows` better than every row of `over` in every column?

    With `quantifier=some` one row must win all (or `share` of) its own comparisons; `pairwise` compares
    `rows[i]` with `over[i]` only; `at_least` is a lead to reach, one number or one per column: a negative one
    reads "at most so much behind".
    """
    margins = list(zip(columns, one_per(at_least, columns), strict=True))
    answers = []
    for index, row in enumerate(rows):
        pairs = [(other, *one) for other in ([over[index]] if pairwise else over) for one in margins]
        answers.append([tally.ahead(row, *pair, lower_is_better=lower_is_better) for pair in pairs])
    if quantifier == "some":
        return tally.verdict(any_holds(all_hold(own, share) for own in answers))
    return tally.verdict(all_hold([answer for own in answers for answer in own], share))


def largest_difference(
    tally: Tally, *, row: str, over: str, columns: Columns, equals: float, decimals: int = 0
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
    rows: Rows,
    over: Rows,
    columns: Columns,
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
    for other, margin in zip(over, one_per(at_least, over), strict=True):
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
    over: Rows,
    columns: Columns,
    average: bool = False,
    lower_is_better: bool = False,
) -> Verdict:
    """Is `row` better than every other row of `over` in every column, or on (unrounded) average?"""
    others = [other for other in over if other != row]
    if not average:
        return outperforms(tally, rows=[row], over=others, columns=columns, lower_is_better=lower_is_better)
    if tally.noise is not None:
        return tally.verdict(None)
    mean = ClaimColumn("average", "mean", columns[0].model)
    return tally.verdict(
        all_hold(
            [tally.ahead(row, other, mean, over=columns, lower_is_better=lower_is_better) for other in others]
        )
    )


def count_wins(tally: Tally, *, rows: Rows, over: Rows, columns: Columns, at_least: int) -> Verdict:
    """Does each of `rows` win on `at_least` data sets?

    A data set is won by beating every row of `over` in more than half of its columns (E2E: three of five).
    """
    sets: dict[tuple[str, str], list[ClaimColumn]] = {}
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
    tally: Tally, *, rows: Rows, columns: Columns, order: Literal["rising", "falling"] = "rising"
) -> Verdict:
    """Do the numbers of `rows`, in this order, rise (or fall) strictly in every column?"""
    falling = order == "falling"
    return outperforms(
        tally, rows=rows[1:], over=rows[:-1], columns=columns, pairwise=True, lower_is_better=falling
    )


def ratio(
    tally: Tally, *, row: str, over: str, columns: Columns, at_least: float, at_most: float = math.inf
) -> Verdict:
    """Is `row` divided by `over` between `at_least` and `at_most` in every column?"""
    if tally.noise is not None:
        return tally.verdict(None)
    answers: list[bool | None] = []
    for column in columns:
        mine, theirs = tally.get(row, column), tally.get(over, column) if over else 1.0
        if mine is None or theirs is None:
            answers.append(None)
            continue
        tally.numbers[f"{row} / {over}, {column}" if over else f"{row} {column}"] = mine / theirs
        answers.append(at_least <= mine / theirs <= at_most)
    return tally.verdict(all_hold(answers))


def bounded(tally: Tally, *, row: str, columns: Columns, at_least: float) -> Verdict:
    """Is the number of `row` at least so large in every column?"""
    return ratio(tally, row=row, over="", columns=columns, at_least=at_least)


def no_single_best(tally: Tally, *, rows: Rows, columns: Columns) -> Verdict:
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


def separated(tally: Tally, *, rows: Rows, columns: Columns) -> Verdict:
    """Is best minus worst of `rows` larger than the largest standard deviation among them, everywhere?

    Beyond noise: is there a difference of two rows beyond it, everywhere? That there is none cannot be shown.
    """
    answers: list[Answer] = []
    for column in columns:
        leads = [tally.ahead(*pair, column, told=False) for pair in combinations(rows, 2)]
        if tally.noise is not None:
            answers.append(any_holds(True if answer is False else answer for answer in leads))
            continue
        deviation = ClaimColumn(column.task, f"{column.metric}_std", column.model)
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


def elsewhere(tally: Tally, *, columns: Columns) -> Verdict:
    """Leave open what no table of numbers says: `choice` and `layertune.landscape.claims` judge it."""
    return Verdict("not_enough_runs", {}, "no table of numbers says")


_KINDS = (
    outperforms, largest_difference, difference_of_row_averages, best_of_rows, count_wins, ranking, ratio,
    bounded, no_single_best, separated,
)  # fmt: skip
PREDICATES: dict[str, Callable[..., Verdict]] = {kind.__name__: kind for kind in _KINDS}
PREDICATES["difference"] = outperforms  # by a lead that is stated
ELSEWHERE = ("layer_choice", "landscape_rules", "landscape_tasks")
PREDICATES |= dict.fromkeys(ELSEWHERE, elsewhere)


def one_per(number: Any, items: Sequence[object]) -> Sequence[Any]:
    """Return one number per item: those given, or the one given for each."""
    return number if isinstance(number, Sequence) else [number] * len(items)


@dataclass(frozen=True)
class Claim:
    """One claim of the paper."""

    id: str
    section: str
    says: str  # in our words
    kind: str  # a name in PREDICATES
    tables: tuple[int | str, ...]  # where the paper's numbers stand: 1 to 10, or figure4, figure5
    columns: tuple[ClaimColumn, ...]
    operands: Mapping[str, Any]  # the predicate's other arguments
    erratum: str | None = None  # id of the erratum about the same sentence
    choice: str | None = None  # what was decided where the sentence leaves it open


@dataclass(frozen=True)
class ClaimsFile:
    """The content of `claims.yaml`."""

    groups: dict[str, list[str]]  # name -> rows, tasks, models or metrics that stand in its place
    metrics: dict[str, str]  # task -> the metric that the paper prints
    claims: list[dict[str, Any]]

    def expanded(self, names: Iterable[str]) -> list[str]:
        """Replace the names of groups by their members."""
        return [member for name in names for member in self.groups.get(name, [name])]


@dataclass(frozen=True)
class ColumnsEntry:
    """The columns models x tasks x metrics, as a claim of the file gives them."""

    tasks: list[str]
    metrics: list[str] | None = None  # None: the printed one of each task
    models: tuple[str, ...] = ("bert",)


def load_claims(folder: Path = PAPER_FOLDER) -> tuple[Claim, ...]:
    """Read `claims.yaml` of `folder`, with the names of groups of rows, tasks and metrics expanded.

    Raises:
        ConfigError: the file is missing or malformed; a predicate is unknown or not made for the operands.
    """
    path = folder / "claims.yaml"
    content = read_yaml(path, ClaimsFile)
    claims = tuple(_claim(entry, content, path) for entry in content.claims)
    refuse_twice((claim.id for claim in claims), path)
    return claims


def judge(claim: Claim, value: Numbers, noise: Noise | None = None) -> Verdict:
    """Return what a table of numbers says about a claim; with `noise`, what it says beyond that."""
    return PREDICATES[claim.kind](Tally(value, noise), columns=claim.columns, **claim.operands)


def paper_numbers(paper: PaperTables, tables: Iterable[int | str]) -> Numbers:
    """Return the paper's own numbers as a table of numbers.

    The errata's targets are applied; a printed number that is no target is used as printed: what is judged
    here is whether the paper's tables support its text. The first of `tables` that has a number counts;
    figures print none: their claims stay open.
    """
    numbered = [table for table in tables if isinstance(table, int)]

    def value(row: str, task: str, metric: str, model: str) -> float | None:
        for table in numbered:
            found = paper.find(table, row, task, metric.removesuffix("_std"), model)
            if found is not None and metric.endswith("_std"):
                return found.std
            if found is not None:
                return found.value if found.target is None else found.target
        return None

    return with_derived_rows(value)


def _claim(entry: dict[str, Any], content: ClaimsFile, path: Path) -> Claim:
    """Return one entry of claims.yaml: what `Claim` has no field for are the predicate's operands."""
    where = f"{path}: {entry.get('id', 'a claim without id')}"
    own = {key: value for key, value in entry.items() if key in Claim.__dataclass_fields__}
    operands = {key: value for key, value in entry.items() if key not in own}
    for key in ("rows", "over"):
        if isinstance(operands.get(key), list):
            operands[key] = content.expanded(operands[key])
    columns = [column for part in entry.get("columns", ()) for column in _columns(part, content, where)]
    claim = validated(Claim, own | {"columns": columns, "operands": operands}, where)
    if claim.kind not in PREDICATES:
        raise ConfigError(f"{where}: unknown kind {claim.kind!r}; known: {', '.join(PREDICATES)}")
    try:
        inspect.signature(PREDICATES[claim.kind]).bind(None, columns=(), **operands)
    except TypeError as error:
        raise ConfigError(f"{where}: {claim.kind} cannot be asked like this: {error}") from error
    return claim


def _columns(entry: dict[str, Any], content: ClaimsFile, where: str) -> Iterable[ClaimColumn]:
    part = validated(ColumnsEntry, entry, f"{where}: a column")
    for model in content.expanded(part.models):
        for task in content.expanded(part.tasks):
            if part.metrics is None and task not in content.metrics:
                raise ConfigError(f"{where}: no metric given for {task}; name it under `metrics:`")
            names = [content.metrics[task]] if part.metrics is None else content.expanded(part.metrics)
            yield from (ClaimColumn(task, metric, model) for metric in names)
