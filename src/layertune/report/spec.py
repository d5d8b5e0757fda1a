"""Table specifications: `configs/table/<name>.yaml` becomes a `TableSpec`, its shorthand written out.

A row is the name of a method, or a mapping with `key` and what differs: `title`, `overrides`, `model`, `best`
or `mean` (over other rows), `any` (lists of overrides of which one record suffices), `sweep` (a row per k). A
column is the name of a task, or a mapping with `key`, `task`, `metric`, `measure`, `mean_of` ... What is left
out comes from the task's YAML and from the paper's tables.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from typing import Any

from layertune.config.build import build_dataclass, unknown_key
from layertune.config.compose import group_choice
from layertune.config.groups import group_names
from layertune.errors import ConfigError, one_line
from layertune.report.cells import UNITS, Cell, Column, How, Row, TableSpec
from layertune.report.paper import PaperTables, load_paper_tables

__all__ = ["Cell", "Column", "Row", "TableSpec", "load_table", "model_title", "table_names"]

_METRICS = {"accuracy": "acc", "f1_macro": "F1", "pearson": "Pear."}  # as the paper's headings name them
_TABLE = {"name", "title", "caption", "rows", "columns", "paper_table", "paper_model", "models", "overrides"}
_TABLE |= {"protocol", "seeds", "footnotes", "notes", "rank_within", "reference", "any"}
_ROW = {"key", "title", "model", "overrides", "best", "mean", "any", "sweep", "ranked", "mark"}


def table_names() -> list[str]:
    """Return all tables and figures: table1 ... table10, figure2 ... figure5, then those of one's own."""
    numbered = [f"table{n}" for n in range(1, 11)] + [f"figure{n}" for n in range(2, 6)]
    names = group_names("table")
    return [name for name in numbered if name in names] + [name for name in names if name not in numbered]


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
    """The shorthand of one file, written out."""

    def __init__(self, table: str, content: Mapping[str, Any], stand_in: Mapping[str, str]) -> None:
        self.table, self.content, self.stand_in = table, content, stand_in
        for chosen in stand_in.values():
            model_title(chosen)

    def model(self, name: str) -> str:
        """Return the model that stands in for a named one."""
        return self.stand_in.get(name, name)

    def rows(self) -> Iterator[Row]:
        """Yield the rows, group by group; of a table over several models, model by model."""
        models = self.content.get("models")
        if models is None:
            main = self.model(self.content.get("paper_model", "bert"))
            for part in self.content["rows"]:
                yield from self._group(part.get("group", ""), part["rows"], main, prefix="")
            return
        extra = [self.stand_in["bert"]] if self.stand_in["bert"] not in ("bert", *models) else []
        for model in (*models, *extra):
            for part in self.content["rows"]:
                yield from self._group(model_title(model), part["rows"], model, prefix=f"{model}/")

    def _group(self, group: str, entries: Iterable[Any], model: str, prefix: str) -> Iterator[Row]:
        for entry in entries:
            given = {"key": entry} if isinstance(entry, str) else entry
            _refuse_unknown(given, _ROW, f"{self.table}: row {given.get('key')}")
            own = self.model(given["model"]) if "model" in given else model
            ks: Iterable[int | None] = [None]
            if given.get("sweep"):
                ks = range(1, int(group_choice("model", own)["num_layers"]))
            for k in ks:
                yield self._row(given, group, own, prefix, k)

    def _row(self, given: Mapping[str, Any], group: str, model: str, prefix: str, k: int | None) -> Row:
        name = given["key"]
        how: How = "best" if "best" in given else "mean" if "mean" in given else "runs"
        of = tuple(prefix + key for key in given.get(how, ()))
        any_of = given.get("any", self.content.get("any", ()))
        overrides = list(given.get("overrides", () if of else [f"method={name}"]))
        if k is not None:
            overrides.append(f"method.k={k}")
        return Row(
            key=prefix + name + (f"@{k}" if k is not None else ""),
            name=name + (f"@{k}" if k is not None else ""),
            title=given.get("title") or self._title(name),
            group=group,
            model=model,
            overrides=tuple(overrides),
            how=how,
            of=of,
            any_of=tuple(tuple(item) for item in any_of),
            ranked=given.get("ranked", not of and name != "full"),
            k=k,
            mark=given.get("mark", ""),
        )

    def _title(self, name: str) -> str:
        """Return a row's title as the paper's table prints it, else that of the method."""
        for number in _paper().numbers:
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


@cache
def _paper() -> PaperTables:
    return load_paper_tables()


def _refuse_unknown(content: Mapping[str, Any], known: Collection[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise unknown_key(f"{where}: {key}", key, list(known))
