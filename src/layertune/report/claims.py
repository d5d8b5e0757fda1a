"""The paper's claims, judged on the paper's own tables and on our records: what `make claims` says.

The claims and their predicates are those of `paper_claims`; here our tables answer them. A cell counts only
when it is done: one that is missing, absent, partial, stale, failed or refused leaves a claim open and is
counted beside it. Comparisons get a paired test over whatever pairs of task and seed are recorded, complete
or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from layertune.report.aggregate import STATES, CellValue, State
from layertune.report.index import RecordIndex
from layertune.report.paired import PairedTest, corrected, paired_test
from layertune.report.paper import PaperTables
from layertune.report.paper_claims import Claim, judge, paper_numbers
from layertune.report.render.request import Request
from layertune.report.values import TableValues, table_values
from layertune.report.verdicts import DERIVED_ROWS, Column, Tally, Verdict, with_derived_rows

COUNTED = ("trainable_parameters",)  # measures that do not vary by chance: a test would say nothing
UNTESTED = {
    "ratio": "a ratio against fixed bounds, no comparison of two rows",
    "bounded": "a bound on one number, no comparison of two rows",
    "no_single_best": "a statement about a whole table, no comparison of two rows",
    "separated": "the spread over seeds is the yardstick already",
}
Seeds = Mapping[int, float]  # seed -> value in the printed unit


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


@dataclass(frozen=True)
class Judged:
    """One claim, judged twice."""

    claim: Claim  # its models are those asked for
    paper: Verdict  # do the paper's tables support its text?
    ours: Verdict
    evidence: Evidence
    tests: tuple[PairedTest, ...]
    no_test: str  # why there is none; "" where there are some


@dataclass(frozen=True)
class Comparison:
    """Two rows that a claim compares."""

    row: str
    other: str
    columns: tuple[Column, ...]
    where: str = ""
    against: float = 0.0
    lower_is_better: bool = False


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
        """Return the mean of a finished cell, or its standard deviation for `<metric>_std`."""
        name = metric.removesuffix("_std")
        table, value = self._found.get((row, task, name, model), (None, None))
        if table is None or value is None:
            if ":" not in DERIVED_ROWS.get(row, row):
                self.absent[row] = None
            return None
        for leaf in _leaves(table, value):
            self._read[leaf.cell.table, *leaf.cell.key] = leaf
        if value.state != "done":
            return None
        return value.mean if metric == name else value.std

    def per_seed(self, row: str, column: Column) -> dict[str, Seeds]:
        """Return task -> seed -> value, of a derived row only where it is defined."""
        table, value = self._found.get((row, column.task, column.metric, column.model), (None, None))
        if table is not None and value is not None:
            keys = value.cell.column.mean_of or (value.cell.column.key,)
            parts = [_unmixed(table, table.cell(value.cell.row.key, key)) for key in keys]
            return {part.cell.column.task: part.values for part in parts if part.values}
        how, _, names = DERIVED_ROWS.get(row, row).partition(":")
        means = {name: self(name, column.task, column.metric, column.model) for name in names.split("+")}
        known = {name: mean for name, mean in means.items() if mean is not None}
        if not names or len(known) < len(means):
            return {}
        if how == "best":
            return self.per_seed(max(known, key=lambda name: known[name]), column)
        found = [self.per_seed(name, column)[column.task] for name in known]
        shared = [seed for seed in found[0] if all(seed in one for one in found)]
        return {column.task: {seed: sum(one[seed] for one in found) / len(found) for seed in shared}}

    def evidence(self, index: RecordIndex) -> Evidence:
        """Return what stands behind the numbers that were read."""
        cells = list(self._read.values())
        states = [cell.state for cell in cells]
        run_ids = tuple(dict.fromkeys(run_id for cell in cells for run_id in cell.run_ids))
        others: dict[str, set[str]] = {}
        for run_id in run_ids:
            record = index.by_id[run_id]
            if not record.is_official:
                others.setdefault(record.data_status, set()).add(record.spec.task)
        tasks = [index.by_id[run_id].spec.task for run_id in run_ids]
        wanted = {run.config_sha256 for cell in cells for run in cell.cell.own_runs()}
        return Evidence(
            states={state: states.count(state) for state in STATES if state in states},
            runs=(len(run_ids), len(wanted)),
            run_ids=run_ids,
            tasks={task: tasks.count(task) for task in dict.fromkeys(tasks)},
            others={status: tuple(sorted(tasks)) for status, tasks in sorted(others.items())},
            absent=tuple(self.absent),
            notices=tuple(dict.fromkeys(note for cell in cells for note in cell.notes)),
        )


def judge_all(
    claims: Iterable[Claim], paper: PaperTables, request: Request, index: RecordIndex
) -> list[Judged]:
    """Judge every claim, on the paper's tables and on the records.

    Args:
        claims: what `load_claims` returned.
        paper: what `load_paper_tables` returned.
        request: which models stand for BERT and GPT-2, in which mode and read-out.
        index: the records.

    Raises:
        ConfigError: an unknown model or setting.
    """
    claims = list(claims)
    names = dict.fromkeys(_name(table) for claim in claims for table in claim.tables)
    tables = {name: table_values(request.table(name), index, request.readout) for name in names}
    return [_judge(claim, paper, request, index, tables) for claim in claims]


def comparisons(claim: Claim, numbers: OurNumbers) -> Iterator[Comparison]:
    """Yield the pairs of rows that a claim compares, metrics of one and the same task apart.

    A stated lead is tested against no lead at all, "at most so much behind" against that much.
    """
    for row, other in _pairs(claim, numbers):
        if row == other:
            continue
        groups: dict[tuple[str, float], list[Column]] = {}
        for column, margin in zip(claim.columns, _margins(claim), strict=True):
            groups.setdefault((_apart(column, claim.columns), min(margin, 0.0)), []).append(column)
        lower = claim.operands.get("lower_is_better", False) or claim.operands.get("order") == "falling"
        for (where, against), columns in groups.items():
            yield Comparison(row, other, tuple(columns), where, against, lower)


def _judge(
    claim: Claim,
    paper: PaperTables,
    request: Request,
    index: RecordIndex,
    tables: Mapping[str, TableValues],
) -> Judged:
    stand_in = {"bert": request.model, "gpt2": request.lm}
    columns = [replace(column, model=stand_in.get(column.model, column.model)) for column in claim.columns]
    asked = replace(claim, columns=tuple(columns))
    numbers = OurNumbers([tables[_name(table)] for table in claim.tables])
    verdict = judge(asked, numbers)
    evidence = numbers.evidence(index)
    no_test = UNTESTED.get(claim.kind, "")
    if {column.metric for column in columns} <= set(COUNTED):
        no_test = "counts do not vary by chance"
    tests = () if no_test else corrected(list(_tests(asked, numbers)))
    if not tests and not no_test:
        no_test = "no task and seed is recorded under both rows"
    return Judged(asked, judge(claim, paper_numbers(paper, claim.tables)), verdict, evidence, tests, no_test)


def _tests(claim: Claim, numbers: OurNumbers) -> Iterator[PairedTest]:
    """Yield a test for each comparison that has a pair; those that speak least for the claim first.

    Metrics that are tested apart come last: their units differ.
    """
    tests = []
    for one in comparisons(claim, numbers):
        differences: dict[str, list[float]] = {}
        for column in one.columns:
            mine, theirs = numbers.per_seed(one.row, column), numbers.per_seed(one.other, column)
            for task in mine.keys() & theirs.keys():
                seeds = [seed for seed in mine[task] if seed in theirs[task]]
                if seeds:
                    gaps = [mine[task][seed] - theirs[task][seed] for seed in seeds]
                    differences[f"{column.model}/{task}"] = gaps
        if differences:
            ordered = dict(sorted(differences.items()))
            rows = (one.row, one.other)
            tests.append(paired_test(*rows, ordered, one.where, one.against, one.lower_is_better))
    yield from sorted(tests, key=lambda test: (test.where, test.lead))


def _pairs(claim: Claim, numbers: OurNumbers) -> Iterable[tuple[str, str]]:
    """Return the rows that are said to be better, each with one that is said to be worse."""
    given: Mapping[str, Any] = claim.operands
    if claim.kind == "ranking":
        return list(zip(given["rows"][1:], given["rows"], strict=False))
    rows = given["rows"] if "rows" in given else [given["row"]]
    over = given["over"] if isinstance(given["over"], list) else [given["over"]]
    if given.get("pairwise"):
        return list(zip(rows, over, strict=True))
    if claim.kind == "difference_of_row_averages":
        tally = Tally(with_derived_rows(numbers))
        averages = {row: tally.average(row, claim.columns) for row in rows}
        known = {row: average for row, average in averages.items() if average is not None}
        rows = [max(known, key=lambda row: known[row])] if len(known) == len(rows) else rows
    return [(row, other) for row in rows for other in over]


def _margins(claim: Claim) -> Sequence[float]:
    """Return what each column is tested against, 0 where a claim names no difference."""
    given = claim.operands.get("at_least", 0.0) if claim.kind.startswith("difference") else 0.0
    if isinstance(given, list) and claim.kind == "difference":
        return given
    return [given if isinstance(given, int | float) else 0.0] * len(claim.columns)


def _apart(column: Column, columns: Sequence[Column]) -> str:
    """Return the metric where a claim reads several of one task: they are no further tasks."""
    same = [one for one in columns if (one.task, one.model) == (column.task, column.model)]
    return column.metric if len(same) > 1 else ""


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
