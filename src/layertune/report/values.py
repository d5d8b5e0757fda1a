"""A whole table of cell values, and what only the whole can say: ranks, mixed columns, coverage."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from layertune.config import RunConfig
from layertune.records.record import Record
from layertune.report.aggregate import CellValue, Rank, ReadOut, aggregate
from layertune.report.cells import DEVICE_BOUND, Column, TableSpec
from layertune.report.index import RecordIndex
from layertune.report.rounding import as_printed

Key = tuple[str, str]  # row key, column key
RANKED_SHARE = 0.75  # of a column's ranked rows must be complete before one is called best


@dataclass(frozen=True)
class TableValues:
    """What the records say about one table; everything a page needs, in a fixed order."""

    spec: TableSpec
    readout: ReadOut
    cells: dict[Key, CellValue]  # row by row
    column_marks: dict[str, tuple[str, ...]]  # column key -> keys of aggregate.MARKS
    notes: tuple[str, ...]  # of the cells and columns, each once
    records: tuple[Record, ...]  # used by a cell, or by its reference, in order of run ids
    missing: tuple[RunConfig, ...]  # runs that no finished record answers, in order of the cells
    stale: tuple[str, ...]  # run ids of other versions that a cell would otherwise use

    @property
    def coverage(self) -> tuple[int, int]:
        """Runs that are done, and runs wanted."""
        wanted = len(self.spec.runs())
        return wanted - len(self.missing), wanted

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the records used."""
        return tuple(sorted({record.spec.seed for record in self.records}))

    @property
    def devices(self) -> tuple[str, ...]:
        """Devices of the records used, by name."""
        return tuple(sorted({record.device for record in self.records}))

    @property
    def commits(self) -> tuple[str, ...]:
        """Commits of the records used; `+` where the code differed from the commit."""
        made_by = [record.identity for record in self.records]
        return tuple(
            sorted({f"{one.git_commit}{'+' * bool(one.git_dirty)}" for one in made_by if one.git_commit})
        )

    @property
    def data_statuses(self) -> tuple[str, ...]:
        """Statuses of the data behind the records used."""
        return tuple(sorted({record.data_status for record in self.records}))

    def cell(self, row: str, column: str) -> CellValue:
        """Return one cell by its keys."""
        return self.cells[(row, column)]

    def number(self, row: str, task: str, metric: str, model: str = "") -> float | None:
        """Return a finished number in the printed unit, by the names of the paper's tables.

        Fits `layertune.report.verdicts.Numbers`: `<metric>_std` is the standard deviation; a cell that is not
        done has no number. In a table over several models `model` is one of them, elsewhere the paper's.
        """
        wanted = metric.removesuffix("_std")
        for value in self._by_name.get((row, task, wanted), ()):
            if model in ("", self.spec.paper_model or value.cell.row.model) and value.state == "done":
                return value.mean if metric == wanted else value.std
        return None

    @cached_property
    def _by_name(self) -> dict[tuple[str, str, str], list[CellValue]]:
        found: dict[tuple[str, str, str], list[CellValue]] = {}
        for value in self.cells.values():
            row, column = value.cell.row, value.cell.column
            found.setdefault((row.name, column.task, column.metric), []).append(value)
        return found


def table_values(spec: TableSpec, index: RecordIndex, readout: ReadOut = "last") -> TableValues:
    """Return what the records say about every cell of a table."""
    device = _device(spec, index)
    cells = {cell.key: aggregate(cell, index, readout, device) for cell in spec.cells()}
    marks: dict[str, tuple[str, ...]] = {}
    notes: list[str] = []
    for column in spec.columns:
        if note := _mixed_column(spec, column, cells, index):
            marks[column.key] = ("mixed",)
            notes.append(note)
        else:
            cells |= _ranked(spec, column, cells)
    notes += [note for value in cells.values() for note in value.notes]
    found = [(run, index.find(run)) for run in spec.runs()]
    filled = {key for key, value in cells.items() if value.cell.how == "any" and value.state == "done"}
    enough = {run.config_sha256 for key in filled for run in cells[key].cell.runs()}
    answered = {one.record.run_id: one.record for _, one in found if one.record is not None}
    answered |= {run_id: index.by_id[run_id] for value in cells.values() for run_id in value.run_ids}
    return TableValues(
        spec=spec,
        readout=readout,
        cells=cells,
        column_marks=marks,
        notes=tuple(dict.fromkeys(notes)),
        records=tuple(answered[run_id] for run_id in sorted(answered)),
        missing=tuple(run for run, one in found if one.record is None and run.config_sha256 not in enough),
        stale=tuple(
            sorted(record.run_id for run, one in found if one.state == "stale" for record in index.of(run))
        ),
    )


def _device(spec: TableSpec, index: RecordIndex) -> Record | None:
    """Return a record of the device that speed is compared on: full fine-tuning's, else the first found."""
    bound = [column for column in spec.columns if column.measure in DEVICE_BOUND]
    first = [row for row in spec.rows if row.key == spec.reference]
    for row in (*first, *spec.rows):
        for column in bound:
            for run in spec.cell(row.key, column.key).own_runs():
                if (record := index.find(run).record) is not None:
                    return record
    return None


def _mixed_column(
    spec: TableSpec, column: Column, cells: dict[Key, CellValue], index: RecordIndex
) -> str | None:
    """Say which two records of a column of metrics are of different data; None where all compare."""
    if column.measure != "metric":
        return None
    for key in column.mean_of or (column.key,):
        data: dict[str, Record] = {}
        for row in spec.rows:
            for run_id in cells[(row.key, key)].run_ids:
                record = index.by_id[run_id]
                data.setdefault("official" if record.is_official else record.fingerprint, record)
        if len(data) > 1:
            one, other = list(data.values())[:2]
            return (
                f"{column.title} is not ranked: {one.run_id} is of {one.data_status} data, {other.run_id} of "
                f"other, {other.data_status} data"
            )
    return None


def _ranked(spec: TableSpec, column: Column, cells: dict[Key, CellValue]) -> dict[Key, CellValue]:
    """Return the best and second best cells of a column, marked.

    Complete cells of ranked rows compete, as printed, except those whose runs learned nothing; equals share a
    rank, and the next distinct number is second. Nothing is best where fewer than two compete or fewer than
    RANKED_SHARE of the rows are complete, and no rank is given that a partial cell may yet take.
    """
    if column.higher_is_better is None:
        return {}
    marked: dict[Key, CellValue] = {}
    for group in _groups(spec):
        rows = [row for row in spec.rows if row.ranked and group in (None, row.group)]
        values = [cells[(row.key, column.key)] for row in rows]
        complete = [value for value in values if value.state == "done"]
        numbers = [
            (as_printed(value.mean, column.decimals), value)
            for value in values
            if value.mean is not None and value.has_learned
        ]
        competing = [(printed, value) for printed, value in numbers if value.state == "done"]
        if len(competing) < 2 or len(complete) < RANKED_SHARE * len(rows):
            continue
        sign = 1 if column.higher_is_better else -1
        threat = max(
            (sign * printed for printed, value in numbers if value.state != "done"), default=-math.inf
        )
        distinct = sorted({printed for printed, _ in competing}, reverse=column.higher_is_better)[:2]
        ranks: dict[float, Rank] = dict(zip(distinct, ("best", "second"), strict=False))
        for printed, value in competing:
            if printed in ranks and sign * printed >= threat:
                marked[value.cell.key] = replace(value, rank=ranks[printed])
    return marked


def _groups(spec: TableSpec) -> Iterable[str | None]:
    return [None] if spec.rank_within == "table" else dict.fromkeys(row.group for row in spec.rows)
