"""The paper's claims, judged on the paper's own tables and on our records: what `make claims` says.

The claims and their predicates are those of `paper_claims`; here our tables answer them, and `decide` says
whether the answer is more than noise. A cell counts only when it is done: one that is missing, absent,
partial, stale, failed or refused leaves a claim open and is counted beside it. One whose runs learned nothing
is left out of every comparison.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from layertune.report.decide import Seeds, decide
from layertune.report.index import RecordIndex
from layertune.report.layer_scores import choice_claim
from layertune.report.paired import PairedTest
from layertune.report.paper import PaperTables
from layertune.report.paper_claims import (
    Claim,
    ClaimColumn,
    Elsewhere,
    Verdict,
    judge,
    paper_numbers,
    parts_of,
)
from layertune.report.request import Request
from layertune.report.values import STATES, CellValue, State, TableValues, table_values

Judge = Callable[[RecordIndex, str], Elsewhere]  # of a model
BY_SCORES: Mapping[str, Judge] = {"layer_choice": choice_claim}


@dataclass(frozen=True)
class Evidence:
    """The cells and records behind a verdict on our records."""

    states: Mapping[State, int]  # how the cells stand that were read
    runs: tuple[int, int]  # done, wanted by those cells
    run_ids: tuple[str, ...]  # of the records in those cells
    tasks: Mapping[str, int]  # task -> how many of these
    others: Mapping[str, tuple[str, ...]]  # status of data that are not official -> tasks
    absent: tuple[str, ...]  # rows that the tables of this model do not have
    notices: tuple[str, ...]  # sentences: stale, failed and refused records, by run id
    learned_nothing: tuple[str, ...]  # row and task of the cells that are left out
    split_errors: Mapping[str, float]  # task -> the largest standard error of its split, in points


@dataclass(frozen=True)
class Judged:
    """One claim, judged twice."""

    claim: Claim  # its models are those asked for
    paper: Verdict  # do the paper's tables support its text?
    ours: Verdict
    evidence: Evidence
    tests: tuple[PairedTest, ...] = ()
    no_test: str = ""  # why there is none; "" where there are some
    by_task: tuple[int, int, int] = (0, 0, 0)  # of `Decision`
    elsewhere: Elsewhere | None = None  # of a claim that is judged on something else than tables


class OurNumbers:
    """Tables of ours as a table of numbers that remembers the cells it was asked for."""

    def __init__(self, tables: Sequence[TableValues]) -> None:
        """Where several tables have a cell, the first one's counts."""
        self.absent: dict[str, None] = {}
        self._read: dict[tuple[str, str, str], CellValue] = {}
        self._found: dict[tuple[str, str, str, str], tuple[TableValues, CellValue]] = {}
        for table in tables:
            for value in table.cells.values():
                row, column = value.cell.row, value.cell.column
                key = (row.name, column.task, column.metric, row.model)
                self._found.setdefault(key, (table, _unmixed(table, value)))

    def __call__(self, row: str, task: str, metric: str, model: str) -> float | None:
        """Return the mean of a finished cell, or its standard deviation for `<metric>_std`; see `Numbers`."""
        name = metric.removesuffix("_std")
        table, value = self._found.get((row, task, name, model), (None, None))
        if table is None or value is None:
            if not parts_of(row)[0]:
                self.absent[row] = None
            return None
        for leaf in _leaves(table, value):
            self._read[leaf.cell.table, *leaf.cell.key] = leaf
        if value.state != "done":
            return None
        if not value.has_learned:
            return math.nan
        return value.mean if metric == name else value.std

    def per_seed(self, row: str, column: ClaimColumn) -> dict[str, Seeds]:
        """Return task -> seed -> value of the runs that learned something; nothing of a best of rows."""
        table, value = self._found.get((row, column.task, column.metric, column.model), (None, None))
        if table is None or value is None:
            return {}
        keys = value.cell.column.mean_of or (value.cell.column.key,)
        parts = [_unmixed(table, table.cell(value.cell.row.key, key)) for key in keys]
        fixed = [part for part in parts if part.cell.how != "best" and part.has_learned]
        return {part.cell.column.task: part.values for part in fixed if part.values}

    def evidence(self, index: RecordIndex) -> Evidence:
        """Return what stands behind the numbers that were read."""
        cells = list(self._read.values())
        states = Counter(cell.state for cell in cells)
        run_ids = tuple(dict.fromkeys(run_id for cell in cells for run_id in cell.run_ids))
        others: dict[str, set[str]] = {}
        for run_id in run_ids:
            record = index.by_id[run_id]
            if not record.is_official:
                others.setdefault(record.data_status, set()).add(record.spec.task)
        errors: dict[str, float] = {}
        for cell in cells:
            if cell.split_error is not None:
                task = cell.cell.column.task
                errors[task] = max(errors.get(task, 0.0), cell.split_error)
        wanted = {run.config_sha256 for cell in cells for run in cell.cell.own_runs()}
        return Evidence(
            states={state: states[state] for state in STATES if state in states},
            runs=(len(run_ids), len(wanted)),
            run_ids=run_ids,
            tasks=dict(Counter(index.by_id[run_id].spec.task for run_id in run_ids)),
            others={status: tuple(sorted(tasks)) for status, tasks in sorted(others.items())},
            absent=tuple(self.absent),
            notices=tuple(dict.fromkeys(note for cell in cells for note in cell.notes)),
            learned_nothing=tuple(
                f"{cell.cell.row.name} {cell.cell.column.task}" for cell in cells if not cell.has_learned
            ),
            split_errors=dict(sorted(errors.items())),
        )


def judge_all(
    claims: Iterable[Claim],
    paper: PaperTables,
    request: Request,
    index: RecordIndex,
    judges: Mapping[str, Judge] = BY_SCORES,
) -> list[Judged]:
    """Judge every claim, on the paper's tables and on the records.

    Args:
        claims: what `load_claims` returned.
        paper: what `load_paper_tables` returned.
        request: which models stand for BERT and GPT-2, in which mode and read-out.
        index: the records.
        judges: kind -> what judges claims of this kind on something else than tables. Without one they lack
            runs.

    Raises:
        ConfigError: an unknown model or setting.
    """
    claims = list(claims)
    names = dict.fromkeys(_name(table) for claim in claims if claim.columns for table in claim.tables)
    tables = {name: table_values(request.table(name), index, request.readout) for name in names}
    stand_in = {"bert": request.model, "gpt2": request.lm}
    judged = []
    for claim in claims:
        by_paper = judge(claim, paper_numbers(paper, claim.tables))
        if claim.kind in judges:
            found = judges[claim.kind](index, request.model)
            nothing = OurNumbers(()).evidence(index)
            judged.append(Judged(claim, by_paper, found.verdict, nothing, elsewhere=found))
            continue
        columns = [
            replace(column, model=stand_in.get(column.model, column.model)) for column in claim.columns
        ]
        asked = replace(claim, columns=tuple(columns))
        numbers = OurNumbers([tables[_name(table)] for table in claim.tables])
        one = decide(asked, numbers)
        evidence = numbers.evidence(index)
        judged.append(Judged(asked, by_paper, one.verdict, evidence, one.tests, one.no_test, one.by_task))
    return judged


def _unmixed(table: TableValues, value: CellValue) -> CellValue:
    """Refuse a cell of a column whose rows are of different data: they do not compare."""
    column = value.cell.column
    mixed = any("mixed" in table.column_marks.get(key, ()) for key in (column.key, *column.mean_of))
    if not mixed or not value.values:
        return value
    note = f"refused: {column.title} holds data of several kinds"
    return replace(value, state="refused", mean=None, std=None, values={}, notes=(*value.notes, note))


def _leaves(table: TableValues, value: CellValue) -> Iterator[CellValue]:
    """Yield the cells that a cell is derived from, itself where it is read from records."""
    if not value.cell.parts:
        yield _unmixed(table, value)
    for part in value.cell.parts:
        yield from _leaves(table, table.cells[part.key])


def _name(table: int | str) -> str:
    return f"table{table}" if isinstance(table, int) else table
