"""Tables and figures as questions: rows x columns, and the runs that each cell needs.

`layertune.report.spec.load_table` makes them from `configs/table/`. The same cells drive what is run, what it
costs and what is printed. Nothing here reads a record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal, TypeVar

from layertune.config import RunConfig
from layertune.config.compose import plain_run, split_overrides
from layertune.errors import ConfigError

How = Literal["runs", "any", "mean", "best"]
# Measures that mean something within one device only.
DEVICE_BOUND = ("speedup", "peak_memory", "preparation_seconds", "run_seconds")
PaperKey = tuple[int, str, str, str, str]  # table, row, task, metric, model: of results/paper/tables.csv
UNITS = {"percent": 100.0, "raw": 1.0, "million": 1e-6, "factor": 1.0, "gibibyte": 2.0**-30, "second": 1.0}


SAME = {"": ("",), "bert": ("bert", "bert_cased"), "gpt2": ("gpt2",)}  # §4.3 names the cased checkpoint


@dataclass(frozen=True)
class Row:
    """One row: a method (of a model), or a number derived from other rows."""

    key: str  # unique in its table: "low_k", "roberta/low_k", "low_k@5"
    name: str  # the row's key in results/paper/tables.csv
    title: str  # as printed
    group: str  # heading above; "" = none
    model: str  # a name in configs/model
    overrides: tuple[str, ...] = ()  # "method=lora", "method.r=8"
    any_of: tuple[tuple[str, ...], ...] = ()  # several such lists: a record of any one fills the cell
    how: How = "runs"  # mean, best: over `of`
    of: tuple[str, ...] = ()  # keys of rows
    ranked: bool = True  # may be best or second best; full fine-tuning and derived rows are not
    k: int | None = None  # of a sweep over k
    mark: str = ""  # of a footnote


@dataclass(frozen=True)
class Column:
    """One column: what is read from the records of a cell, and how it is printed."""

    key: str  # unique in its table
    title: str
    task: str  # a task's name, or "average": the key in results/paper/tables.csv
    metric: str  # accuracy, f1_macro, mean, speedup, trainable_parameters ...: the key there, unless
    # `paper_metric` names another
    unit: str  # one of UNITS
    decimals: int
    overrides: tuple[str, ...] = ()  # "task=sst2", "protocol=timing"
    measure: str = "metric"  # a name of layertune.report.measures.MEASURES
    evaluation: str = ""  # the evaluation set whose metric is read
    mean_of: tuple[str, ...] = ()  # keys of columns: an average
    higher_is_better: bool | None = True  # None: nothing to rank
    paper_metric: str | None = None  # the paper's metric that this column compares with
    paper_rows: tuple[str, ...] | None = None  # names of the rows that do; None = all
    mark: str = ""  # of a footnote

    @property
    def scale(self) -> float:
        """From the record's unit (fractions, parameters, bytes) to the printed one."""
        return UNITS[self.unit]


@dataclass(frozen=True)
class Cell:
    """One cell: its runs, or the cells that it is derived from."""

    table: str
    row: Row
    column: Column
    how: How = "runs"  # runs: mean over seeds; any: one record suffices; mean, best: over `parts`
    overrides: tuple[tuple[str, ...], ...] = ()  # of its runs, apart from the seed; several only for `any`
    seeds: tuple[int, ...] = ()
    parts: tuple[Cell, ...] = ()
    reference: Cell | None = None  # full fine-tuning: what a speed-up is taken over, on which device
    paper_key: PaperKey | None = None  # the number beside it; None = the paper prints none
    comparable: bool = True  # whether a difference to that number means anything: same model, all data
    refusal: str = ""  # why the row's model cannot meet what was asked of every run; then it has no runs

    @property
    def key(self) -> tuple[str, str]:
        """Row key and column key."""
        return (self.row.key, self.column.key)

    def runs(self) -> list[RunConfig]:
        """Return the runs that fill this cell, those of its parts and its reference included, each once.

        Of a cell that any one record fills, only the run that would be asked for.
        """
        found = {run.config_sha256: run for part in self.parts for run in part.runs()}
        for own in self.own_runs()[: 1 if self.how == "any" else None]:
            found[own.config_sha256] = own
        for run in self.reference.runs() if self.reference is not None else ():
            found[run.config_sha256] = run
        return list(found.values())

    def own_runs(self) -> tuple[RunConfig, ...]:
        """Return the runs whose records this cell reads itself; for `any`, in order of preference."""
        return tuple(run for overrides in self.overrides for run in _seeded(overrides, self.seeds))


@dataclass(frozen=True)
class TableSpec:
    """One table or figure, for one choice of model, language model, training mode and protocol."""

    name: str  # table1 ... table10, figure2 ... figure5
    title: str
    caption: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    seeds: tuple[int, ...]
    paper_table: int | None  # 1 ... 10; None for figures
    model: str  # what stands for the model that the paper uses; "" where rows have models of their own
    paper_model: str  # that model
    train: str
    grid: str
    protocol: str
    fixed: tuple[str, ...] = ()  # overrides of every run, from the file
    extra: tuple[str, ...] = ()  # overrides of every run, from whoever asks; above all others
    chosen: str = ""  # the model asked for: `model.*` among `extra` is about it, not about the other rows'
    footnotes: dict[str, str] = field(default_factory=dict)  # mark -> text
    notes: tuple[str, ...] = ()  # below the table, without a mark
    rank_within: Literal["table", "group"] = "table"
    reference: str | None = None  # row key: what speed-ups are taken over, on which device all cells must be

    def row(self, key: str) -> Row:
        """Return a row by its key."""
        return _by_key(self.rows, key, self.name)

    def column(self, key: str) -> Column:
        """Return a column by its key."""
        return _by_key(self.columns, key, self.name)

    def cells(self) -> list[Cell]:
        """Return all cells, row by row."""
        return [self.cell(row.key, column.key) for row in self.rows for column in self.columns]

    def cell(self, row: str, column: str) -> Cell:
        """Return one cell."""
        return self._cell(self.row(row), self.column(column))

    def runs(self) -> list[RunConfig]:
        """Return all runs of the table, each once, in the order of its cells."""
        return list({run.config_sha256: run for cell in self.cells() for run in cell.runs()}.values())

    def _cell(self, row: Row, column: Column) -> Cell:
        cell = Cell(
            self.name,
            row,
            column,
            paper_key=self._paper_key(row, column),
            comparable=self.protocol in ("paper", "timing") and self.model in SAME.get(self.paper_model, ()),
        )
        if column.mean_of:
            parts = tuple(self._cell(row, self.column(key)) for key in column.mean_of)
            return replace(cell, how="mean", parts=parts)
        if row.of:
            parts = tuple(self._cell(self.row(key), column) for key in row.of)
            return replace(cell, how=row.how, parts=parts)
        common = [f"model={row.model}", f"protocol={self.protocol}", f"train={self.train}"]
        common += [f"grid={self.grid}"] if self.grid != "paper" else []
        extra = [word for word in self.extra if not word.startswith("model.") or row.model == self.chosen]
        overrides = tuple(
            merged_overrides(common, self.fixed, column.overrides, row.overrides, own, extra)
            for own in row.any_of or ((),)
        )
        if refusal := self._refusal(row, overrides):
            return replace(cell, seeds=self.seeds, refusal=refusal)
        reference = None
        if column.measure in DEVICE_BOUND and self.reference not in (None, row.key):
            reference = self._cell(self.row(str(self.reference)), column)
        how: How = "any" if row.any_of else "runs"
        return replace(cell, how=how, overrides=overrides, seeds=self.seeds, reference=reference)

    def _refusal(self, row: Row, overrides: tuple[tuple[str, ...], ...]) -> str:
        """Say why a row's own model cannot meet what was asked of every run; "" where it can.

        Raises:
            ConfigError: the model asked for cannot meet it either: the request is wrong, not the row.
        """
        if not self.extra or row.model == self.chosen:
            return ""
        try:
            for own in overrides:
                _seeded(own, self.seeds)
        except ConfigError as error:
            for own in overrides:
                _seeded(merged_overrides(own, [f"model={self.chosen}"]), self.seeds)
            return str(error)
        return ""

    def _paper_key(self, row: Row, column: Column) -> PaperKey | None:
        if self.paper_table is None or (column.paper_rows is not None and row.name not in column.paper_rows):
            return None
        model = self.paper_model or row.model
        return (self.paper_table, row.name, column.task, column.paper_metric or column.metric, model)


Item = TypeVar("Item", Row, Column)


def merged_overrides(*lists: Sequence[str]) -> tuple[str, ...]:
    """Return one list of overrides in which a later value of a key stands in place of an earlier one."""
    values: dict[str, str] = {}
    for override in (item for part in lists for item in part):
        choices, others = split_overrides([override])
        values |= choices | others
    return tuple(f"{key}={value}" for key, value in values.items())


def _by_key(items: Sequence[Item], key: str, table: str) -> Item:
    for item in items:
        if item.key == key:
            return item
    raise ConfigError(f"{table} has no {key!r}; it has {', '.join(item.key for item in items)}")


@cache
def _seeded(overrides: tuple[str, ...], seeds: tuple[int, ...]) -> tuple[RunConfig, ...]:
    """Compose once and change the seed: nothing else depends on it."""
    first = plain_run([*overrides, f"seed={seeds[0]}"])
    return tuple(replace(first, seed=seed, overrides=(*overrides, f"seed={seed}")) for seed in seeds)
