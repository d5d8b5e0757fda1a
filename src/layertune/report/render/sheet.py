"""A table as it is printed, whatever the format: rows of cells, cells of lines, and what stands below.

`build` and `compare` make sheets from values; `markdown`, `latex` and `html_table` write them. Every number
is a string here, so that no format rounds, ranks or words anything in its own way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from layertune.report.values import Rank, State

Role = Literal["ours", "paper", "difference"]


@dataclass(frozen=True)
class Line:
    """One line of a cell: a number with what belongs to it, or the state that stands in its place."""

    text: str  # "93.4 ± 0.2", "—", "OOM"
    role: Role = "ours"
    label: str = ""  # in front, small: which side of a comparison
    count: str = ""  # behind, small: "(3)" seeds, or "·2/3"
    delta: str = ""  # behind, in brackets: "+1.7"
    marks: tuple[str, ...] = ()  # superscripts: "‡", "1"
    state: State = "done"
    rank: Rank | None = None
    detail: str = ""  # below, small: the row that a best was taken from
    runs: tuple[tuple[str, str], ...] = ()  # (seed or name, run id): where the number comes from

    @property
    def is_by_seed(self) -> bool:
        """Whether the number has records of its own, one per seed; a derived one has those of its parts."""
        return bool(self.runs) and all(name.isdigit() for name, _ in self.runs)


@dataclass(frozen=True)
class SheetRow:
    """One row: its heading and a cell, a tuple of lines, per column."""

    title: str
    group: str
    cells: tuple[tuple[Line, ...], ...]
    marks: tuple[str, ...] = ()

    def has(self, role: Role, level: int) -> bool:
        """Whether any cell has such a line at this height."""
        return any(len(cell) > level and cell[level].role == role for cell in self.cells)


@dataclass(frozen=True)
class Footer:
    """One statement below a table: a label, and text or a command."""

    label: str
    text: str
    is_command: bool = False


@dataclass(frozen=True)
class Sheet:
    """One table, ready to print."""

    name: str  # table1
    title: str  # "Table 1, GTE-small"
    caption: str
    columns: tuple[tuple[str, tuple[str, ...]], ...]  # title, marks
    rows: tuple[SheetRow, ...]
    legend: tuple[str, ...]  # how to read a cell, and the signs that occur
    footnotes: tuple[tuple[str, str], ...]  # mark, text
    notes: tuple[str, ...]
    footers: tuple[Footer, ...]
    gaps: int  # cells that are not done
    is_empty: bool  # not one record

    @property
    def cells(self) -> int:
        """How many cells the table has."""
        return len(self.rows) * len(self.columns)

    def groups(self) -> Iterator[tuple[str, tuple[SheetRow, ...]]]:
        """Yield the rows that stand together, with their heading."""
        for group, rows in groupby(self.rows, key=lambda row: row.group):
            yield group, tuple(rows)

    def traced(self) -> list[tuple[str, str, Line]]:
        """Return row, column and line of every number that has records of its own, one per seed."""
        return [
            (row.title, title, line)
            for row in self.rows
            for (title, _), cell in zip(self.columns, row.cells, strict=True)
            for line in cell
            if line.is_by_seed
        ]
