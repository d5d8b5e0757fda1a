"""Tables as Markdown, LaTeX, HTML (the templates beside this file say how each looks) and CSV.

Whatever a template prints is escaped for its format, unless it says `safe`: no title, note or run id can
become markup.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from layertune.report.render.sheet import Line, Sheet, SheetRow
from layertune.report.values import CellValue, TableValues

_SIGNS = Path(__file__).with_name("templates") / "latex.yaml"
A4 = 345.0  # points: the width of a line of `\documentclass[a4paper]{article}`, the narrowest in use
LINES = 52  # of \scriptsize that fit a page below a caption
_LONG = 12  # characters; a longer heading takes two lines


def to_markdown(sheet: Sheet, runs: str = "../../runs") -> str:
    """Return the text of a sheet; `runs` is the path from the file to the folder of records."""
    text = _environment("md").get_template("table.md.jinja").render(sheet=sheet, runs=runs)
    return f"{text.strip()}\n"


def to_latex(sheet: Sheet, folder: str = "") -> str:
    r"""Return the text of a sheet, one or several `table*` to be read with \input.

    A table that is wider than a line of A4, or longer than a page, is split; its label is that of the first
    part. The text is ASCII and needs no package but booktabs.

    Args:
        sheet: what to print.
        folder: of the request: labels of different models and settings differ by it.
    """
    label = "-".join(name for name in (folder, sheet.name) if name)
    template = _environment("tex").get_template("table.tex.jinja")
    return template.render(sheet=sheet, parts=_parts(sheet), label=label).strip() + "\n"


def to_html(template: str, **content: object) -> str:
    """Return a page."""
    return _environment("html").get_template(f"{template}.html.jinja").render(**content)


def to_plain_text(template: str, **content: object) -> str:
    """Return text in which nothing is escaped."""
    return _environment("text").get_template(f"{template}.jinja").render(**content)


def to_csv(*tables: TableValues) -> str:
    """Return one line per cell, numbers at full precision, for whoever wants to compute with them.

    `values` reads seed:number, a list is separated by spaces, notes by " | ".
    """
    return csv_of([_csv_line(table, value) for table in tables for value in table.cells.values()])


def csv_of(lines: Sequence[Mapping[str, object]]) -> str:
    """Return lines as CSV, below their names."""
    out = io.StringIO()
    writer = csv.DictWriter(out, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def _csv_line(table: TableValues, value: CellValue) -> dict[str, object]:
    row, column, paper = value.cell.row, value.cell.column, value.paper
    return {
        "table": table.spec.name,
        "row": row.key,
        "column": column.key,
        "group": row.group,
        "method": row.title,
        "model": row.model,
        "task": column.task,
        "metric": column.metric,
        "unit": column.unit,
        "readout": table.readout,
        "state": value.state,
        "mean": _digits(value.mean),
        "std": _digits(value.std),
        "n": value.n,
        "wanted": value.wanted,
        "paper": paper.printed if paper else "",
        "paper_std": (paper.std_printed or "") if paper else "",
        "paper_target": _digits(paper.target) if paper else "",
        "difference": _digits(value.delta),
        "rank": value.rank or "",
        "marks": " ".join(value.marks),
        "chosen": value.chosen or "",
        "values": " ".join(f"{seed}:{_digits(number)}" for seed, number in value.values.items()),
        "run_ids": " ".join(value.run_ids),
        "notes": " | ".join(value.notes),
        "split_error": _digits(value.split_error),
    }


def _digits(number: float | None) -> str:
    """Return up to six digits after the point, never "-0"; "" for None."""
    return "" if number is None else f"{round(number, 6) + 0.0:.10g}"


@cache
def _environment(kind: str) -> Environment:
    """Return the templates of one format; what they print is escaped as it needs."""
    options: dict[str, Any] = {}
    if kind == "md":
        options = {"finalize": partial(_once, escape=escaped_markdown)}
    if kind == "tex":  # braces are LaTeX's own
        options = {"finalize": partial(_once, escape=escaped_latex)}
        options |= {"block_start_string": "<%", "block_end_string": "%>"}
        options |= {"variable_start_string": "<<", "variable_end_string": ">>"}
        options |= {"comment_start_string": "<#", "comment_end_string": "#>"}
    made = Environment(
        loader=PackageLoader("layertune.report.render"),
        autoescape=kind != "text",
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        **options,
    )
    made.filters["halves"] = _halves
    return made


def _once(value: object, escape: Callable[[str], str]) -> Markup:
    return value if isinstance(value, Markup) else Markup(escape(str(value)))


def escaped_markdown(text: str) -> str:
    """Escape what Markdown reads as markup."""
    for sign in "\\`*_|<>[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def escaped_latex(text: str) -> str:
    """Return text in which nothing is a command and every character has a glyph, or shows its code."""
    return "".join(_named(sign) for sign in " ".join(text.split()))


@cache
def _known_signs() -> dict[str, dict[str, str]]:
    content: dict[str, dict[str, str]] = yaml.safe_load(_SIGNS.read_text(encoding="utf-8"))
    return content


def _named(sign: str) -> str:
    signs, letters, accents = (_known_signs()[kind] for kind in ("signs", "letters", "accents"))
    if sign in signs or sign.isascii():
        return signs.get(sign, sign)
    if sign in letters:
        return rf"\{letters[sign]}{{}}"
    letter, *accent = list(unicodedata.normalize("NFD", sign))
    names = [unicodedata.name(one, "") for one in accent]
    if letter.isascii() and len(names) == 1 and names[0] in accents:
        return rf"\{accents[names[0]]}{letter}"
    return f"{{[}}U+{ord(sign):04X}{{]}}"


def _halves(title: str) -> list[str]:
    """Break a long heading once, near its middle."""
    words = title.split()
    if len(title) <= _LONG or len(words) < 2:
        return [title]
    cut = min(range(1, len(words)), key=lambda at: abs(len(" ".join(words[:at])) - len(title) / 2))
    return [" ".join(words[:cut]), " ".join(words[cut:])]


def _parts(sheet: Sheet) -> list[Sheet]:
    """Split a sheet into parts that fit a page, between groups of rows and between columns."""
    found = []
    for rows in _pages(sheet):
        room = 0.95 * A4 - max(_width(row.title, *row.marks) for row in rows) - 6
        widths = [_column_width(sheet, rows, place) for place in range(len(sheet.columns))]
        blocks: list[list[int]] = [[]]
        for place, width in enumerate(widths):
            if blocks[-1] and sum(widths[other] for other in blocks[-1]) + width > room:
                blocks.append([])
            blocks[-1].append(place)
        found += [
            replace(
                sheet,
                columns=tuple(sheet.columns[place] for place in block),
                rows=tuple(replace(row, cells=tuple(row.cells[place] for place in block)) for row in rows),
            )
            for block in blocks
        ]
    return found


def _pages(sheet: Sheet) -> list[tuple[SheetRow, ...]]:
    """Return the rows page by page; a group that fits none is cut where the page ends."""
    pages: list[tuple[SheetRow, ...]] = []
    height = LINES
    for _, rows in sheet.groups():
        lines = 2 + sum(max(map(len, row.cells)) for row in rows)
        if height + lines > LINES:
            pages, height = [*pages, ()], 0
        for row in rows:
            if height > LINES:
                pages, height = [*pages, ()], 2
            pages[-1] += (row,)
            height += max(map(len, row.cells))
        height += 2
    return pages


def _column_width(sheet: Sheet, rows: Sequence[SheetRow], place: int) -> float:
    """Return about how wide a column is, in points."""
    title, marks = sheet.columns[place]
    cells = [_line_width(line) for row in rows for line in row.cells[place]]
    return max(*(_width(half) for half in _halves(title)), *cells) + 3 * len(marks) + 6


def _line_width(line: Line) -> float:
    small = len(f"{line.label} {line.count} {f'({line.delta})' if line.delta else ''}".strip()) + len(
        line.marks
    )
    own = 4.3 if line.role == "ours" else 2.9
    return own * len(line.text) + 2.9 * small


def _width(text: str, *marks: str) -> float:
    return 3.9 * len(text) + 3 * len(marks)
