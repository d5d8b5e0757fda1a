"""What a claim is judged with: a table of numbers, a verdict, and three-valued logic over comparisons.

A table of numbers is any `value(row, task, metric, model) -> float | None` in printed units, the paper's or
ours; None says that the number is not there (yet), nan that its runs learned nothing. In three-valued logic
an open answer leaves a question open only where it could still turn it; what compares with runs that learned
nothing is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

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
class Column:
    """One column of a table: a metric of a task, of one model."""

    task: str
    metric: str
    model: str = "bert"

    def __str__(self) -> str:
        return f"{self.model}/{self.task} {self.metric}"


Noise = Callable[[str, str, Column], float]  # (row, other, column) -> the least difference beyond noise


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
        self._read: dict[tuple[str, Column], float | None] = {}  # in the order asked
        self._pairs: set[tuple[str, str, Column]] = set()

    def get(self, row: str, column: Column) -> float | None:
        """Return one number; it is remembered."""
        key = (row, column)
        if key not in self._read:
            self._read[key] = self._value(row, column.task, column.metric, column.model)
        return self._read[key]

    def gap(self, row: str, other: str, column: Column) -> float | None:
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
        column: Column,
        margin: float | None = None,
        *,
        over: Sequence[Column] = (),
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
        gap = self._gap_of_averages(row, other, over) if over else self.gap(row, other, column)
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

    def _gap_of_averages(self, row: str, other: str, columns: Sequence[Column]) -> float | None:
        mine, theirs = self.averages([row, other], columns)
        return None if mine is None or theirs is None else round(mine - theirs, 9)

    def averages(self, rows: Sequence[str], columns: Sequence[Column]) -> list[float | None]:
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
    """Name the first few."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
