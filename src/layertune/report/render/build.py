"""From the values of a table to its sheet: a line for ours, a line for the paper's, and what stands below."""

from __future__ import annotations

from collections.abc import Iterable

from layertune.report.paper import Erratum
from layertune.report.render import words
from layertune.report.render.footers import footers
from layertune.report.render.sheet import Line, Sheet, SheetRow
from layertune.report.request import Request
from layertune.report.spec import TableSpec, model_title
from layertune.report.values import MARKS, STATES, CellValue, TableValues


def sheet_of(values: TableValues, request: Request) -> Sheet:
    """Return the sheet of one table."""
    spec = values.spec
    errata = _errata(values.cells.values())
    numbered = {name: str(number) for number, name in enumerate(errata, start=1)}
    foreign = _is_foreign(values)
    rows = tuple(
        SheetRow(
            title=row.title,
            group=row.group,
            cells=tuple(
                _cell(values.cell(row.key, column.key), spec, numbered, foreign) for column in spec.columns
            ),
            marks=(row.mark,) if row.mark else (),
        )
        for row in spec.rows
    )
    return Sheet(
        name=spec.name,
        title=title_of(spec),
        caption=spec.caption,
        columns=columns_of(values),
        rows=rows,
        legend=legend(values, foreign),
        footnotes=(*_used(spec), *((numbered[name], _told(erratum)) for name, erratum in errata.items())),
        notes=tuple(_sentence(note) for note in (*spec.notes, *values.notes)),
        footers=footers(values, request),
        gaps=sum(value.state != "done" for value in values.cells.values()),
        is_empty=not values.records and not values.stale,
    )


def title_of(*specs: TableSpec) -> str:
    """Return "Table 1, BERT-base"; a table over several models has no model of its own."""
    named = [model_title(spec.model) for spec in specs if spec.paper_model]
    return ", ".join([specs[0].title, *dict.fromkeys(named)])


def columns_of(*values: TableValues) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return title and marks of each column; the marks of several tables together."""
    return tuple(
        (
            column.title,
            tuple(
                dict.fromkeys(
                    [
                        *([column.mark] if column.mark else []),
                        *(MARKS[mark] for one in values for mark in one.column_marks.get(column.key, ())),
                    ]
                )
            ),
        )
        for column in values[0].spec.columns
    )


def signs(*values: TableValues) -> list[str]:
    """Return the meaning of the states and marks that occur, in a fixed order."""
    cells = [value for one in values for value in one.cells.values()]
    states = {value.state for value in cells}
    marks = {mark for value in cells for mark in value.marks}
    marks |= {mark for one in values for found in one.column_marks.values() for mark in found}
    told = [words.STATE_MEANING[state] for state in STATES if state in states and state != "done"]
    return told + [f"{MARKS[mark]} {words.MARK_MEANING[mark]}" for mark in MARKS if mark in marks]


def legend(values: TableValues, foreign: bool) -> tuple[str, ...]:
    """Say how to read a cell, and what the signs of this table mean."""
    has_paper = any(value.paper is not None for value in values.cells.values())
    told = [f"{text}." for text in signs(values)]
    first = words.HOW_TO_READ
    if foreign:
        told = [text for text in told if not text.startswith(words.OTHER)]
        first += " Below it the paper's number, of another model or of other data: no difference is taken."
    elif has_paper:
        first += " Below it the paper's number, and in brackets ours minus the paper's."
    return (f"{first} {words.RANKS}", *told)


def _cell(value: CellValue, spec: TableSpec, errata: dict[str, str], foreign: bool) -> tuple[Line, ...]:
    chosen = "" if value.chosen is None else spec.row(value.chosen).title
    marks: tuple[str, ...] = () if foreign or "other" not in value.marks else (words.OTHER,)
    if value.paper is not None and value.paper.erratum is not None:
        marks += tuple(mark for name, mark in errata.items() if name == value.paper.erratum.id)
    below = words.paper(value, marks)
    return (words.ours(value, chosen), *(() if below is None else (below,)))


def _is_foreign(values: TableValues) -> bool:
    """Whether no number of the paper in this table compares with ours: said once, not in every cell."""
    beside = [value for value in values.cells.values() if value.paper is not None]
    return bool(beside) and all("other" in value.marks for value in beside)


def _errata(cells: Iterable[CellValue]) -> dict[str, Erratum]:
    """Return the errata that touch a printed number, in order of appearance, without the confirmed ones."""
    touched = (value.paper.erratum for value in cells if value.paper is not None)
    return {erratum.id: erratum for erratum in touched if erratum and erratum.verdict != "confirmed"}


def _told(erratum: Erratum) -> str:
    told = f"Erratum {erratum.id} ({erratum.where}): {_sentence(erratum.derivation)}"
    return f"{told} Target: {_sentence(str(erratum.target))}"


def _sentence(text: str) -> str:
    """Return text on one line that ends with a full stop."""
    return " ".join(text.split()).rstrip(".") + "."


def _used(spec: TableSpec) -> list[tuple[str, str]]:
    """Return the footnotes that a row or a column carries."""
    used = {row.mark for row in spec.rows} | {column.mark for column in spec.columns}
    return [(mark, " ".join(text.split())) for mark, text in spec.footnotes.items() if mark in used]
