"""From the records of a cell to what the cell says: state, mean, spread, the paper's number, marks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from layertune.report.cells import Cell
from layertune.report.paper import PaperValue

ReadOut = Literal["last", "best"]
State = Literal["done", "partial", "stale", "oom", "failed", "missing", "refused"]
Rank = Literal["best", "second"]
STATES: tuple[State, ...] = (
    "done",
    "partial",
    "stale",
    "oom",
    "failed",
    "missing",
    "refused",
)  # last = worst
MARKS = {
    "data": "‡",  # rows other than the official data
    "mixed": "§",  # a column, or a cell, that mixes data of several statuses
    "majority": "†",  # a run at or below the majority class
    "twice": "¶",  # several records for one run: which one was used is noted
    "other": "*",  # differs in kind from what the paper measured
}


@dataclass(frozen=True)
class CellValue:
    """What one cell says. Numbers are in the printed unit (percent, millions, factors)."""

    cell: Cell
    state: State
    mean: float | None  # None: nothing to print; an average or a best of rows needs all its cells done
    std: float | None  # sample standard deviation (ddof 1) over seeds; None for fewer than two
    n: int  # records used (seeds); for a derived cell its parts that are done
    wanted: int
    values: Mapping[int, float] = field(default_factory=dict)  # seed -> value
    paper: PaperValue | None = None  # what the paper prints, errata applied
    delta: float | None = None  # mean - paper.value; None where they do not compare
    marks: tuple[str, ...] = ()  # keys of MARKS
    notes: tuple[str, ...] = ()  # sentences; they name run ids
    run_ids: tuple[str, ...] = ()  # of the records used, in order of seeds
    chosen: str | None = None  # best of rows: the row it came from
    rank: Rank | None = None
