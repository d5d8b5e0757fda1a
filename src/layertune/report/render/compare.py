"""Two backbones, or two read-outs, side by side: both numbers in a cell, and the second minus the first."""

from __future__ import annotations

from dataclasses import replace

from layertune.report.render import words
from layertune.report.render.build import columns_of, signs, title_of
from layertune.report.render.footers import READ_OUTS, coverage, settings
from layertune.report.render.sheet import Footer, Line, Sheet, SheetRow
from layertune.report.request import Request, folder_of
from layertune.report.spec import Row, model_title
from layertune.report.values import CellValue, TableValues

Side = tuple[Request, TableValues]


def labels(one: Request, other: Request) -> tuple[str, str]:
    """Return what tells two requests apart: their read-outs, else their models."""
    if one.model == other.model:
        return one.readout, other.readout
    return model_title(one.model), model_title(other.model)


def title_of_comparison(one: Request, other: Request) -> str:
    """Return what stands above all tables of a comparison."""
    both = " and ".join(labels(one, other))
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
    names = labels(one[0], other[0])
    rows = {row.key: row for values in (second, first) for row in values.spec.rows}
    order = [row.key for row in first.spec.rows]
    order += [row.key for row in second.spec.rows if row.key not in order]
    sheet_rows = tuple(_row(rows[key], first, second, names) for key in order)
    texts = [
        f"Each cell: {names[0]}, {names[1]}, and the second minus the first where both are complete.",
        words.RANKS,
        *(f"{text}." for text in signs(first, second) if not text.startswith(words.OTHER)),
    ]
    return Sheet(
        name=first.spec.name,
        title=title_of(first.spec, second.spec),
        caption=first.spec.caption,
        columns=columns_of(first, second),
        rows=sheet_rows,
        legend=tuple(texts),
        footnotes=(),
        notes=tuple(dict.fromkeys([*first.notes, *second.notes])),
        footers=(*_footers(names[0], *one), *_footers(names[1], *other)),
        gaps=sum(value.state != "done" for values in (first, second) for value in values.cells.values()),
        is_empty=not (first.records or second.records or first.stale or second.stale),
    )


def _row(row: Row, first: TableValues, second: TableValues, names: tuple[str, str]) -> SheetRow:
    cells = tuple(
        _cell(first.cells.get((row.key, column.key)), second.cells.get((row.key, column.key)), names)
        for column in first.spec.columns
    )
    return SheetRow(row.title, row.group, cells)


def _cell(one: CellValue | None, other: CellValue | None, names: tuple[str, str]) -> tuple[Line, ...]:
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


def _footers(name: str, request: Request, values: TableValues) -> tuple[Footer, ...]:
    return (
        Footer(f"{name}: coverage", coverage(values)),
        Footer(f"{name}: read-out", READ_OUTS[request.readout]),
        Footer(f"{name}: settings", settings(values.spec)),
    )
