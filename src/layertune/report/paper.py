"""What the paper prints: the 608 numbers of Tables 1-10 (`results/paper/tables.csv`) and the errata.

Tables, claims and figures compare our records with a number's `target`. It is the printed one except where
the paper contradicts itself: there `errata.yaml` says which number is the target, if any can be.

Values stay as printed (percent, millions, factors). Row keys are method names, and a few more: `ours_best`
(best of the four strategies: Tables 5, 8, 10), `ours_mean` (their mean: Table 4), `io` (input/output
similarity, low or high is not said: Tables 4, 5), and `lora_r8` ... `lora_r64` (Table 10). The columns of
Table 4 and the "Avg." of Tables 1 and 2 are the task `average`.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, TypeAdapter, ValidationError

from layertune.config.groups import CONFIG_DIR
from layertune.errors import ConfigError

PAPER_FOLDER = CONFIG_DIR.parent / "results" / "paper"
Content = TypeVar("Content")


def _is_number(digits: str) -> str:
    float(digits)
    return digits


Digits = Annotated[str, AfterValidator(_is_number)]
Cell = tuple[int, str, str, str, str]  # table, row, task, metric, model


@dataclass(frozen=True)
class Printed:
    """One number of the paper: where it stands, and its digits."""

    table: int
    row: str
    model: str
    task: str
    metric: str
    printed: Digits  # digits as printed: "8.60"

    @property
    def cell(self) -> Cell:
        """The key: table, row, task, metric, model."""
        return (self.table, self.row, self.task, self.metric, self.model)


@dataclass(frozen=True)
class ErrataCell(Printed):
    """One printed number that an erratum is about."""

    target: float | None  # None: no target, the number cannot be what it says


@dataclass(frozen=True)
class Erratum:
    """One place where the paper's text and numbers, or two of its numbers, were recomputed.

    A text that does not follow from the tables is unsupported; a count that no construction gives is not
    derivable; one counted otherwise than those beside it is inconsistent; ambiguous: more than one reading.
    """

    id: str
    where: str
    printed: str | float
    follows: Mapping[str, float]  # what the recomputation gives, by name
    derivation: str  # what follows from what
    target: str | float
    verdict: Literal[
        "contradiction", "unsupported", "not_derivable", "inconsistent", "ambiguous", "confirmed"
    ]
    cells: tuple[ErrataCell, ...] = ()


@dataclass(frozen=True)
class Errata:
    """The content of `errata.yaml`."""

    errata: tuple[Erratum, ...]


@dataclass(frozen=True)
class PaperNumber(Printed):
    """One line of `tables.csv`, with what an erratum says of it."""

    std_printed: Digits | None  # "0.11"; None where the paper prints no ±
    unit: Literal["percent", "raw", "million", "factor"]  # raw: NIST and CIDEr; million: parameters
    group_printed: str  # heading above the row; "" = none
    method_printed: str
    dataset_printed: str
    target: float | None = None  # what ours is compared with; None: printed, but not a target
    erratum: Erratum | None = None

    @property
    def value(self) -> float:
        """The number as printed."""
        return float(self.printed)

    @property
    def std(self) -> float | None:
        """The number after ±."""
        return None if self.std_printed is None else float(self.std_printed)

    @property
    def decimals(self) -> int:
        """Digits after the point, as printed."""
        return len(self.printed.partition(".")[2])


@dataclass(frozen=True)
class PaperTables:
    """The ten tables as printed, with the errata that touch their cells."""

    numbers: tuple[PaperNumber, ...]
    errata: tuple[Erratum, ...]

    @cached_property
    def _by_cell(self) -> dict[Cell, PaperNumber]:
        return {number.cell: number for number in self.numbers}

    def find(self, table: int, row: str, task: str, metric: str, model: str = "bert") -> PaperNumber | None:
        """Return what the paper says about one cell; None where it prints nothing.

        Args:
            table: 1 to 10.
            row: a method's name or one of the row keys named at the top of this file.
            task: a task's name, a cross-domain pair, or `average`.
            metric: as in records; `mean`, `trainable_parameters` and `speedup` besides.
            model: a model's name.
        """
        return self._by_cell.get((table, row, task, metric, model))


@cache
def the_paper() -> PaperTables:
    """Return the tables that ship with the repository."""
    return load_paper_tables()


_COLUMNS = "table,row,model,task,metric,value,std,unit,group_printed,method_printed,dataset_printed"


def load_paper_tables(folder: Path = PAPER_FOLDER) -> PaperTables:
    """Read `tables.csv` and `errata.yaml` of `folder`.

    Raises:
        ConfigError: a file is missing or malformed, or an erratum names a cell that the paper does not print.
    """
    path = folder / "tables.csv"
    reader = csv.DictReader(io.StringIO(_text(path)))
    if reader.fieldnames != _COLUMNS.split(","):
        raise ConfigError(f"{path}: the columns must be {_COLUMNS}; got {reader.fieldnames}")
    numbers = []
    for line in reader:
        digits = {"printed": line.pop("value"), "std_printed": line.pop("std") or None}
        numbers.append(validated(PaperNumber, line | digits, f"{path}:{reader.line_num}"))
    refuse_twice((number.cell for number in numbers), path)
    errata = load_errata(folder)
    known = {number.cell: replace(number, target=number.value) for number in numbers}
    for erratum in errata:
        for cell in erratum.cells:
            number = known.get(cell.cell)
            if number is None or number.printed != cell.printed:
                found = "nothing" if number is None else number.printed
                raise ConfigError(
                    f"{folder / 'errata.yaml'}: {erratum.id} says that {cell.cell} prints {cell.printed}, "
                    f"but tables.csv has {found}"
                )
            known[cell.cell] = replace(number, target=cell.target, erratum=erratum)
    return PaperTables(tuple(known.values()), errata)


def load_errata(folder: Path = PAPER_FOLDER) -> tuple[Erratum, ...]:
    """Read `errata.yaml` of `folder`.

    Raises:
        ConfigError: the file is missing or malformed, an id or a cell comes twice, or a verdict is unknown.
    """
    path = folder / "errata.yaml"
    errata = read_yaml(path, Errata).errata
    refuse_twice((erratum.id for erratum in errata), path)
    refuse_twice((cell.cell for erratum in errata for cell in erratum.cells), path)
    return errata


def read_yaml(path: Path, kind: type[Content]) -> Content:
    """Return the content of a YAML file as a dataclass.

    Raises:
        ConfigError: the file is missing, is no YAML, or reads otherwise.
    """
    try:
        content = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    return validated(kind, content, str(path))


def validated(kind: type[Content], content: Any, where: str) -> Content:
    """Return plain values as a dataclass.

    Raises:
        ConfigError: a key is missing or unknown, or a value is of another type.
    """
    try:
        return TypeAdapter(kind).validate_python(content, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where}: {place}: {first['msg']}; got {first['input']!r}") from error


def refuse_twice(keys: Iterable[Hashable], path: Path) -> None:
    """Raise a ConfigError when a key comes twice."""
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise ConfigError(f"{path}: {', '.join(map(str, twice))} comes twice")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({error.strerror}): it ships with the repository") from error
