"""What a claim is judged with: a table of numbers, a verdict, and three-valued logic over comparisons.

A table of numbers is any `value(row, task, metric, model) -> float | None` in printed units, the paper's or
ours; None says that the number is not there (yet). In three-valued logic a missing number leaves an answer
open only where it could still turn it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Literal, Protocol

Status = Literal["holds", "does_not_hold", "not_enough_runs"]
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
        """Return one number, None where it does not exist."""
        ...


@dataclass(frozen=True)
class Column:
    """One column of a table: a metric of a task, of one model."""

    task: str
    metric: str
    model: str = "bert"

    def __str__(self) -> str:
        return f"{self.model}/{self.task} {self.metric}"


@dataclass(frozen=True)
class Verdict:
    """What the numbers say about a claim."""

    status: Status
    numbers: dict[str, float]  # what the answer rests on, by name
    reason: str


def with_derived_rows(value: Numbers) -> Numbers:
    """Return `value` with the rows `best:a+b`, `mean:a+b` and DERIVED_ROWS, computed where `value` has none.

    A derived number is None as soon as one part is missing, and it has no standard deviation.
    """

    def derived(row: str, task: str, metric: str, model: str) -> float | None:
        found = value(row, task, metric, model)
        how, _, parts = DERIVED_ROWS.get(row, row).partition(":")
        if found is not None or not parts or metric.endswith("_std"):
            return found
        values = [value(part, task, metric, model) for part in parts.split("+")]
        known = [number for number in values if number is not None]
        if len(known) < len(values):
            return None
        return max(known) if how == "best" else sum(known) / len(known)

    return derived


def as_printed(number: float, decimals: int) -> float:
    """Round half up, as a table prints: 83.05 is 83.1 (floats such as 83.0499999999 included)."""
    return float(Decimal(repr(round(number, 9))).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def all_hold(answers: Iterable[bool | None], share: float = 1.0) -> bool | None:
    """Do all (or at least `share` of) the answers hold? None while the open ones decide."""
    answers = list(answers)
    needed = math.ceil(share * len(answers) - 1e-9)
    held, still_open = answers.count(True), answers.count(None)
    if held >= needed:
        return True
    return None if held + still_open >= needed else False


def any_holds(answers: Iterable[bool | None]) -> bool | None:
    """Does one of the answers hold? None while an open one decides."""
    answers = list(answers)
    if True in answers:
        return True
    return None if None in answers else False


class Tally:
    """Reads numbers, compares them, and remembers what was found for the verdict."""

    def __init__(self, value: Numbers) -> None:
        """Start with nothing read."""
        self.numbers: dict[str, float] = {}
        self.against: list[str] = []  # counterexamples
        self._value = value
        self._missing: dict[str, None] = {}  # in the order asked
        self._compared = self._held = 0

    def get(self, row: str, column: Column) -> float | None:
        """Return one number; a missing one is remembered."""
        number = self._value(row, column.task, column.metric, column.model)
        if number is None:
            self._missing[f"{row} {column}"] = None
        return number

    def gap(self, row: str, other: str, column: Column) -> float | None:
        """Return `row` minus `other`, free of float noise."""
        mine, theirs = self.get(row, column), self.get(other, column)
        return None if mine is None or theirs is None else round(mine - theirs, 9)

    def ahead(
        self,
        row: str,
        other: str,
        column: Column,
        margin: float | None = None,
        *,
        lower_is_better: bool = False,
    ) -> bool | None:
        """Is `row` better than `other` (by at least `margin`, where one is given)? The gap is remembered."""
        gap = self.gap(row, other, column)
        if gap is None:
            return None
        lead = -gap if lower_is_better else gap
        answer = lead > 0 if margin is None else lead >= margin
        self.numbers[f"{row} - {other}, {column}"] = gap
        self._compared += 1
        self._held += answer
        if not answer:
            self.against.append(f"{row} - {other} is {gap:+.4g} on {column}")
        return answer

    def average(self, row: str, columns: Sequence[Column]) -> float | None:
        """Return the mean of `row` over the columns, None if one is missing."""
        values = [self.get(row, column) for column in columns]
        known = [number for number in values if number is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    def verdict(self, answer: bool | None) -> Verdict:
        """Return the verdict with its reason."""
        parts = [f"{self._held} of {self._compared} comparisons hold"] if self._compared else []
        if self.against:
            parts.append(("except: " if answer else "against it: ") + _first(self.against))
        if self.numbers and not self._compared:
            parts.append(_first([f"{name} {number:.4g}" for name, number in self.numbers.items()]))
        if answer is None:
            parts.append("missing: " + _first(list(self._missing)))
        status: Status = "not_enough_runs" if answer is None else "holds" if answer else "does_not_hold"
        return Verdict(status, self.numbers, "; ".join(parts))


def _first(names: Sequence[str]) -> str:
    """Name the first few."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
