"""What the paper prints: the 608 numbers of Tables 1-10 (`results/paper/tables.csv`) and the errata.

Tables, claims and figures compare our records with `paper_value`, which applies `errata.yaml`: where the
paper contradicts itself it says which number is the target, if any of them can be.

Values stay as printed (percent, millions, factors). Row keys are method names, and a few more: `ours_best`
(best of the four strategies: Tables 5, 8, 10), `ours_mean` (their mean: Table 4), `io` (input/output
similarity, low or high is not said: Tables 4, 5), and `lora_r8` ... `lora_r64` (Table 10). The columns of
Table 4 and the "Avg." of Tables 1 and 2 are the task `average`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from layertune.config.groups import CONFIG_DIR
from layertune.errors import ConfigError

PAPER_FOLDER = CONFIG_DIR.parent / "results" / "paper"
UNITS = ("percent", "raw", "million", "factor")  # raw: NIST and CIDEr; million: parameters; factor: speed-up
VERDICTS = (
    "contradiction",  # two printed statements exclude each other
    "unsupported",  # a sentence does not follow from the tables
    "not_derivable",  # no construction gives the printed count
    "inconsistent",  # counted or computed otherwise than the rows beside it
    "ambiguous",  # the paper leaves open what is meant; the reading used is named
    "confirmed",  # recomputed, and right
)
_CELL = ("table", "row", "model", "task", "metric")


@dataclass(frozen=True)
class PaperNumber:
    """One printed number and where it stands."""

    table: int
    row: str
    model: str
    task: str
    metric: str
    printed: str  # digits as printed: "8.60"
    std_printed: str | None  # "0.11"; None where the paper prints no ±
    unit: str
    group_printed: str  # heading above the row; "" = none
    method_printed: str
    dataset_printed: str

    @property
    def value(self) -> float:
        """The number, in the printed unit."""
        return float(self.printed)

    @property
    def std(self) -> float | None:
        """The number after ±, in the printed unit."""
        return None if self.std_printed is None else float(self.std_printed)

    @property
    def decimals(self) -> int:
        """Digits after the point, as printed."""
        return len(self.printed.partition(".")[2])

    @property
    def cell(self) -> tuple[int, str, str, str, str]:
        """The key: table, row, model, task, metric."""
        return (self.table, self.row, self.model, self.task, self.metric)


@dataclass(frozen=True)
class ErrataCell:
    """One printed number that an erratum is about."""

    table: int
    row: str
    model: str
    task: str
    metric: str
    printed: str
    target: float | None  # None: no target, the number cannot be what it says

    @property
    def cell(self) -> tuple[int, str, str, str, str]:
        """The key: table, row, model, task, metric."""
        return (self.table, self.row, self.model, self.task, self.metric)


@dataclass(frozen=True)
class Erratum:
    """One place where the paper's text and numbers, or two of its numbers, were recomputed."""

    id: str
    where: str
    printed: str
    follows: Mapping[str, float]  # what the recomputation gives, by name
    derivation: str  # what follows from what
    target: str
    verdict: str  # one of VERDICTS
    cells: tuple[ErrataCell, ...] = ()


@dataclass(frozen=True)
class PaperValue:
    """The number that a table cell of ours is compared with."""

    value: float | None  # None: printed, but not a target
    std: float | None
    number: PaperNumber  # as printed
    erratum: Erratum | None


@dataclass(frozen=True)
class PaperTables:
    """The ten tables as printed, with the errata that touch their cells."""

    numbers: tuple[PaperNumber, ...]
    errata: tuple[Erratum, ...]

    @cached_property
    def by_cell(self) -> dict[tuple[int, str, str, str, str], PaperValue]:
        """All numbers with the errata applied, by table, row, model, task and metric."""
        wrong = {cell.cell: (cell.target, erratum) for erratum in self.errata for cell in erratum.cells}
        found = {}
        for number in self.numbers:
            target, erratum = wrong.get(number.cell, (number.value, None))
            found[number.cell] = PaperValue(target, number.std, number, erratum)
        return found

    @cached_property
    def _by_table(self) -> dict[int, tuple[PaperNumber, ...]]:
        tables = sorted({number.table for number in self.numbers})
        return {table: tuple(n for n in self.numbers if n.table == table) for table in tables}

    def of(self, table: int) -> tuple[PaperNumber, ...]:
        """Return the numbers of one table, in printed order.

        Raises:
            ConfigError: no such table.
        """
        if table not in self._by_table:
            known = list(self._by_table)
            raise ConfigError(f"the paper has no table {table!r}; its tables are {known[0]} to {known[-1]}")
        return self._by_table[table]


def load_paper_tables(folder: Path = PAPER_FOLDER) -> PaperTables:
    """Read `tables.csv` and `errata.yaml` of `folder`.

    Raises:
        ConfigError: a file is missing or malformed, or an erratum names a cell that the paper does not print.
    """
    path = folder / "tables.csv"
    header = [_FILE_COLUMN.get(field.name, field.name) for field in fields(PaperNumber)]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames != header:
                raise ConfigError(f"{path}: the columns must be {', '.join(header)}; got {reader.fieldnames}")
            numbers = tuple(_number(line, f"{path}:{reader.line_num}") for line in reader)
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}): it ships with the repository") from error
    _refuse_twice((number.cell for number in numbers), path)
    errata = load_errata(folder)
    printed = {number.cell: number.printed for number in numbers}
    for erratum in errata:
        for cell in erratum.cells:
            if printed.get(cell.cell) != cell.printed:
                found = printed.get(cell.cell, "nothing")
                raise ConfigError(
                    f"{folder / 'errata.yaml'}: {erratum.id} says that {cell.cell} prints {cell.printed}, "
                    f"but tables.csv has {found}"
                )
    return PaperTables(numbers, errata)


def load_errata(folder: Path = PAPER_FOLDER) -> tuple[Erratum, ...]:
    """Read `errata.yaml` of `folder`.

    Raises:
        ConfigError: the file is missing or malformed, an id or a cell comes twice, or a verdict is unknown.
    """
    path = folder / "errata.yaml"
    errata = tuple(_erratum(entry, path) for entry in read_yaml(path, "errata")["errata"])
    _refuse_twice((erratum.id for erratum in errata), path)
    _refuse_twice((cell.cell for erratum in errata for cell in erratum.cells), path)
    return errata


def paper_value(
    tables: PaperTables, table: int, row: str, task: str, metric: str, model: str | None = None
) -> PaperValue | None:
    """Return what the paper says about one cell, with the errata applied; None where it prints nothing.

    Args:
        tables: what `load_paper_tables` returned.
        table: 1 to 10.
        row: a method's name or one of the row keys named at the top of this file.
        task: a task's name, a cross-domain pair, or `average`.
        metric: as in records; `mean`, `trainable_parameters` and `speedup` besides.
        model: a model's name; None = the only model of the table.

    Raises:
        ConfigError: no such table, or `model` left out where the table has several.
    """
    numbers = tables.of(table)
    if model is None:
        model, *others = sorted({number.model for number in numbers})
        if others:
            raise ConfigError(f"table {table} has several models: name one of {', '.join([model, *others])}")
    return tables.by_cell.get((table, row, model, task, metric))


def read_yaml(path: Path, *keys: str) -> dict[str, Any]:
    """Return the content of a YAML file that has exactly these keys, the last one with a list of mappings.

    Raises:
        ConfigError: the file is missing, is no YAML, or reads otherwise.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}): it ships with the repository") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict) or set(content) != set(keys):
        raise ConfigError(f"{path}: the keys must be {', '.join(keys)}")
    entries = content[keys[-1]]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{path}: expected a list of mappings under `{keys[-1]}:`")
    return content


_FILE_COLUMN = {"printed": "value", "std_printed": "std"}


def _number(line: dict[str, str], where: str) -> PaperNumber:
    """Return one line of tables.csv as a number."""
    try:
        number = PaperNumber(
            table=int(line["table"]),
            printed=line["value"],
            std_printed=line["std"] or None,
            **{key: line[key] for key in ("row", "model", "task", "metric", "unit")},
            **{key: line[key] for key in ("group_printed", "method_printed", "dataset_printed")},
        )
        _ = number.value, number.std
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error
    if number.unit not in UNITS:
        raise ConfigError(f"{where}: unknown unit {number.unit!r}; it is one of {', '.join(UNITS)}")
    return number


def _erratum(entry: dict[str, Any], path: Path) -> Erratum:
    """Return one entry of errata.yaml."""
    name = entry.get("id", "an entry without id")
    required = {field.name for field in fields(Erratum)} - {"cells"}
    if set(entry) - {"cells"} != required:
        raise ConfigError(f"{path}: {name} needs the keys {', '.join(sorted(required))}, and may have cells")
    if entry["verdict"] not in VERDICTS:
        raise ConfigError(f"{path}: {name}: verdict {entry['verdict']!r} is none of {', '.join(VERDICTS)}")
    cells = []
    for cell in entry.get("cells", ()):
        if set(cell) != {*_CELL, "printed", "target"}:
            raise ConfigError(
                f"{path}: {name}: a cell has {', '.join(_CELL)}, printed and target; got {cell}"
            )
        if not isinstance(cell["printed"], str):
            raise ConfigError(f"{path}: {name}: quote the printed digits {cell['printed']!r} of a cell")
        cells.append(ErrataCell(**cell))
    return Erratum(**{**entry, "cells": tuple(cells)})


def _refuse_twice(keys: Iterable[Any], path: Path) -> None:
    """Raise when a key comes twice."""
    seen: set[Any] = set()
    for key in keys:
        if key in seen:
            raise ConfigError(f"{path}: {key} comes twice")
        seen.add(key)
