"""From values to sheets: one request with the paper's numbers below ours, or two requests side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from layertune.report.paper import Erratum
from layertune.report.render import words
from layertune.report.render.sheet import Footer, Line, Sheet, SheetRow
from layertune.report.request import Request, folder_of
from layertune.report.spec import Row, TableSpec, model_title
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
    return _sheet(
        [values],
        rows=rows,
        legend=_legend(values, foreign),
        footnotes=(*_used(spec), *((numbered[name], _told(erratum)) for name, erratum in errata.items())),
        notes=tuple(_sentence(note) for note in (*spec.notes, *values.notes)),
        footers=words.footers(values, request),
    )


def _sheet(tables: Sequence[TableValues], **content: Any) -> Sheet:
    """Return a sheet: its content, and what follows from the tables that share it."""
    spec = tables[0].spec
    # A table over several models has no model of its own.
    named = [model_title(one.spec.model) for one in tables if one.spec.paper_model]
    marks = {
        column.key: [MARKS[mark] for one in tables for mark in one.column_marks.get(column.key, ())]
        for column in spec.columns
    }
    return Sheet(
        name=spec.name,
        title=", ".join([spec.title, *dict.fromkeys(named)]),
        caption=spec.caption,
        columns=tuple(
            (column.title, tuple(dict.fromkeys(filter(None, [column.mark, *marks[column.key]]))))
            for column in spec.columns
        ),
        gaps=sum(value.state != "done" for one in tables for value in one.cells.values()),
        is_empty=not any(one.records or one.stale for one in tables),
        **content,
    )


def _signs(*values: TableValues) -> list[str]:
    """Return the meaning of the states and marks that occur, in a fixed order."""
    cells = [value for one in values for value in one.cells.values()]
    states = {value.state for value in cells}
    marks = {mark for value in cells for mark in value.marks}
    marks |= {mark for one in values for found in one.column_marks.values() for mark in found}
    told = [words.STATE_MEANING[state] for state in STATES if state in states and state != "done"]
    return told + [f"{MARKS[mark]} {words.MARK_MEANING[mark]}" for mark in MARKS if mark in marks]


def _legend(values: TableValues, foreign: bool) -> tuple[str, ...]:
    """Say how to read a cell, and what the signs of this table mean."""
    has_paper = any(value.paper is not None for value in values.cells.values())
    told = [f"{text}." for text in _signs(values)]
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


Side = tuple[Request, TableValues]


def _labels(one: Request, other: Request) -> tuple[str, str]:
    """Return what tells two requests apart: their read-outs, else their models."""
    if one.model == other.model:
        return one.readout, other.readout
    return model_title(one.model), model_title(other.model)


def title_of_comparison(one: Request, other: Request) -> str:
    """Return what stands above all tables of a comparison."""
    both = " and ".join(_labels(one, other))
    return f"{model_title(one.model)}, read-outs {both}" if one.model == other.model else both


def folder_name(one: Request, other: Request) -> str:
    """Return the name of the folder of a comparison."""
    if one.model == other.model:
        return folder_of(
            f"{one.model}_{one.readout}_and_{other.readout}", replace(one, readout="last").settings
        )
    return folder_of(f"{one.model}_and_{other.model}", one.settings)


def compared(one: Side, other: Side) -> Sheet:
    """Return one table of two requests; a row that only one of them has stands there alone."""
    first, second = one[1], other[1]
    names = _labels(one[0], other[0])
    rows = {row.key: row for values in (second, first) for row in values.spec.rows}
    order = [row.key for row in first.spec.rows]
    order += [row.key for row in second.spec.rows if row.key not in order]
    texts = [
        f"Each cell: {names[0]}, {names[1]}, and the second minus the first where both are complete.",
        words.RANKS,
        *(f"{text}." for text in _signs(first, second) if not text.startswith(words.OTHER)),
    ]
    return _sheet(
        [first, second],
        rows=tuple(_both_rows(rows[key], first, second, names) for key in order),
        legend=tuple(texts),
        footnotes=(),
        notes=tuple(dict.fromkeys([*first.notes, *second.notes])),
        footers=(*_footers_of(names[0], *one), *_footers_of(names[1], *other)),
    )


def _both_rows(row: Row, first: TableValues, second: TableValues, names: tuple[str, str]) -> SheetRow:
    cells = tuple(
        _both(first.cells.get((row.key, column.key)), second.cells.get((row.key, column.key)), names)
        for column in first.spec.columns
    )
    return SheetRow(row.title, row.group, cells)


def _both(one: CellValue | None, other: CellValue | None, names: tuple[str, str]) -> tuple[Line, ...]:
    lines = [
        words.ours(value, label=name)
        for value, name in zip((one, other), names, strict=True)
        if value is not None
    ]
    if one is None or other is None or one.state != "done" or other.state != "done":
        return tuple(lines)
    assert one.mean is not None and other.mean is not None
    text = words.difference(other.mean - one.mean, one.cell.column.decimals)
    return (*lines, Line(text=f"Δ {text}", role="difference"))


def _footers_of(name: str, request: Request, values: TableValues) -> tuple[Footer, ...]:
    return (
        Footer(f"{name}: coverage", words.coverage(values)),
        Footer(f"{name}: read-out", words.READ_OUTS[request.readout]),
        Footer(f"{name}: settings", words.settings(values.spec)),
    )
