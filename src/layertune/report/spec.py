"""Tables and figures as questions: rows x columns, and the runs that each cell needs.

`configs/table/<name>.yaml` becomes a `TableSpec`, its shorthand written out. A row is the name of a method,
or a mapping with `key` and what differs: `title`, `overrides`, `model`, `best` or `mean` (over other rows),
`any` (lists of overrides of which one record suffices), `sweep` (a row per k). A column is the name of a
task, or a mapping with `key`, `task`, `metric`, `measure`, `mean_of` ... What is left out comes from the
task's YAML and from the paper's tables. The same cells drive what is run, what it costs and what is printed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeVar

from layertune.config import RunConfig
from layertune.config.build import build_dataclass, unknown_key
from layertune.config.compose import group_choice, plain_run, split_overrides
from layertune.config.groups import cached_by_folders, group_names, own_names
from layertune.errors import ConfigError, one_line
from layertune.report.paper import Cell as PaperKey
from layertune.report.paper import the_paper

How = Literal["runs", "any", "mean", "best"]
# Measures that mean something within one device only.
DEVICE_BOUND = ("speedup", "peak_memory", "preparation_seconds", "run_seconds")
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
    measure: str = "metric"  # a name of layertune.report.values.MEASURES
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


@cached_by_folders
def _seeded(overrides: tuple[str, ...], seeds: tuple[int, ...]) -> tuple[RunConfig, ...]:
    """Compose once and change the seed: nothing else depends on it."""
    first = plain_run([*overrides, f"seed={seeds[0]}"])
    return tuple(replace(first, seed=seed, overrides=(*overrides, f"seed={seed}")) for seed in seeds)


_METRICS = {"accuracy": "acc", "f1_macro": "F1", "pearson": "Pear."}  # as the paper's headings name them
_TABLE = {"name", "title", "caption", "rows", "columns", "paper_table", "paper_model", "models", "overrides"}
_TABLE |= {"protocol", "seeds", "footnotes", "notes", "rank_within", "reference", "any"}
FIGURES = tuple(f"figure{n}" for n in range(2, 6))  # files of tables that are drawn
_ROW = {"key", "title", "model", "overrides", "best", "mean", "any", "sweep", "ranked", "mark"}


def table_names() -> list[str]:
    """Return all tables and figures: table1 ... table10, figure2 ... figure5, then those of one's own."""
    numbered, names = [f"table{n}" for n in range(1, 11)] + [*FIGURES], group_names("table")
    return [name for name in numbered if name in names] + [name for name in names if name not in numbered]


def printed_tables() -> list[str]:
    """Return those that are printed: table1 ... table10, then those of one's own."""
    return [name for name in table_names() if name not in FIGURES]


def model_title(name: str) -> str:
    """Return the title of a model.

    Raises:
        ConfigError: there is no such model.
    """
    return choice_title("model", name)


def choice_title(group: str, name: str) -> str:
    """Return the title of a choice on one line; one that has none goes by its name."""
    return one_line(str(group_choice(group, name).get("title") or name))


def load_table(
    name: str | int,
    model: str = "bert",
    lm: str = "gpt2",
    train: str = "published",
    grid: str = "paper",
    protocol: str | None = None,
    overrides: Iterable[str] = (),
    content: Mapping[str, Any] | None = None,
) -> TableSpec:
    """Return one table or figure.

    Args:
        name: `table1` ... `figure5`; a number means a table.
        model: stands where the file names `bert`; Table 6 has it as a sixth model.
        lm: stands where the file names `gpt2` (Table 3, Figure 3).
        train: published | fast, of every run.
        grid: paper | fair, of every run.
        protocol: stands in place of `paper`, never of `timing`; None = as the file says.
        overrides: of every run, above the file's, such as `train.epochs=3`; `model.*` of those of `model`.
        content: of the file, where it does not lie in `configs/table`.

    Raises:
        ConfigError: no such table or model, or the file is malformed.
    """
    name = f"table{name}" if isinstance(name, int) else name
    content = group_choice("table", name) if content is None else content
    _refuse_unknown(content, _TABLE, name)
    files = _Files(name, content, {"bert": model, "gpt2": lm})
    own_protocol = content.get("protocol", "paper")
    paper_model = "" if "models" in content else content.get("paper_model", "bert")
    return TableSpec(
        name=name,
        title=content["title"],
        caption=" ".join(content["caption"].split()),
        rows=tuple(files.rows()),
        columns=tuple(files.columns()),
        seeds=tuple(content["seeds"]),
        paper_table=content.get("paper_table"),
        model=files.model(paper_model),
        paper_model=paper_model,
        train=train,
        grid=grid,
        protocol=protocol if protocol and own_protocol == "paper" else own_protocol,
        fixed=tuple(content.get("overrides", ())),
        extra=tuple(overrides),
        chosen=model,
        footnotes=dict(content.get("footnotes", {})),
        notes=tuple(content.get("notes", ())),
        rank_within=content.get("rank_within", "table"),
        reference=content.get("reference"),
    )


class _Files:
    """One file of `configs/table`, its shorthand written out."""

    def __init__(self, table: str, content: Mapping[str, Any], stand_in: Mapping[str, str]) -> None:
        self.table, self.content, self.stand_in = table, content, stand_in
        for chosen in stand_in.values():
            model_title(chosen)

    def model(self, name: str) -> str:
        """Return the model that stands in for a named one."""
        return self.stand_in.get(name, name)

    def rows(self) -> Iterator[Row]:
        """Yield the rows, group by group; of a table over several models, model by model."""
        parts, models = [*self.content["rows"], *self._added()], self.content.get("models")
        if models is None:
            main = self.model(self.content.get("paper_model", "bert"))
            groups = [(part.get("group", ""), part, main, "") for part in parts]
        else:
            extra = [self.stand_in["bert"]] if self.stand_in["bert"] not in ("bert", *models) else []
            groups = [(model_title(m), part, m, f"{m}/") for m in (*models, *extra) for part in parts]
        for group, part, model, prefix in groups:
            for entry in part["rows"]:
                given = {"key": entry} if isinstance(entry, str) else entry
                _refuse_unknown(given, _ROW, f"{self.table}: row {given.get('key')}")
                own = self.model(given["model"]) if "model" in given else model
                ks: Iterable[int | None] = [None]
                if given.get("sweep"):
                    ks = range(1, int(group_choice("model", own)["num_layers"]))
                for k in ks:
                    yield self._row(given, group, own, prefix, k)

    def _added(self) -> list[dict[str, Any]]:
        """Return the group of the methods of one's own (`--config-dir`), which stand in every table."""
        listed = {
            row if isinstance(row, str) else row["key"]
            for part in self.content["rows"]
            for row in part["rows"]
        }
        names = [name for name in own_names("method") if name not in listed]
        return [{"group": "Added", "rows": names}] if names and "paper_table" in self.content else []

    def _row(self, given: Mapping[str, Any], group: str, model: str, prefix: str, k: int | None) -> Row:
        method = given["key"]
        name = method if k is None else f"{method}@{k}"
        how: How = "best" if "best" in given else "mean" if "mean" in given else "runs"
        of = tuple(prefix + key for key in given.get(how, ()))
        any_of = given.get("any", self.content.get("any", ()))
        overrides = list(given.get("overrides", () if of else [f"method={method}"]))
        if k is not None:
            overrides.append(f"method.k={k}")
        return Row(
            key=prefix + name,
            name=name,
            title=given.get("title") or self._title(method),
            group=group,
            model=model,
            overrides=tuple(overrides),
            how=how,
            of=of,
            any_of=tuple(tuple(item) for item in any_of),
            ranked=given.get("ranked", not of and method != "full"),
            k=k,
            mark=given.get("mark", ""),
        )

    def _title(self, name: str) -> str:
        """Return a row's title as the paper's table prints it, else that of the method."""
        for number in the_paper().numbers:
            if number.table == self.content.get("paper_table") and number.row == name:
                return number.method_printed
        return choice_title("method", name)

    def columns(self) -> Iterator[Column]:
        """Yield the columns."""
        for entry in self.content["columns"]:
            given = {"key": entry, "task": entry} if isinstance(entry, str) else entry
            _refuse_unknown(given, _COLUMN, f"{self.table}: column {given.get('key')}")
            yield self._column(given)

    def _column(self, given: Mapping[str, Any]) -> Column:
        """Return one column, what is left out filled in from its task."""
        task = given["task"]
        values: dict[str, Any] = {
            "key": given["key"],
            "unit": "percent",
            "decimals": 1,
            "title": given["key"],
        }
        if "overrides" not in given and "mean_of" not in given:
            values["overrides"] = [f"task={task}"]
        if "measure" not in given and "mean_of" not in given:
            file = group_choice("task", task)
            values["metric"] = metric = given.get("metric", file["metric"])
            values["evaluation"] = file.get("data") or task
            values["title"] = f"{choice_title('task', task)} ({_METRICS.get(metric, metric)})"
        if "mean_of" in given:
            values |= {"metric": "mean", "title": "Avg."}
        column: Column = build_dataclass(Column, values | dict(given), f"{self.table}: {given['key']}")
        if column.unit not in UNITS:
            raise ConfigError(f"{self.table}: unit {column.unit!r} is unknown; known: {', '.join(UNITS)}.")
        return column


_COLUMN = {field.name for field in fields(Column)}


def _refuse_unknown(content: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise unknown_key(f"{where}: {key}", key, list(known))
