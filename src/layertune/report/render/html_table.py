"""A sheet as a piece of HTML: a table whose every number links to its records, and what stands below it."""

from __future__ import annotations

from dataclasses import replace
from html import escape

from layertune.report.render.sheet import Footer, Line, Sheet, SheetRow


def to_html(sheet: Sheet, runs: str, anchor: str) -> str:
    """Return one section.

    Args:
        sheet: what to print.
        runs: path from the page to the folder of records.
        anchor: id of the section, for the page's navigation; "" = none.
    """
    head = "".join(f'<th scope="col">{escape(title)}{_raised(marks)}</th>' for title, marks in sheet.columns)
    lines = [
        f'<section id="{anchor}">' if anchor else "<section>",
        f"<h3>{escape(sheet.title)}</h3>",
        f"<p>{escape(sheet.caption)}</p>",
        f'<div class="wide"><table class="numbers"><thead><tr><th></th>{head}</tr></thead>',
    ]
    for group, rows in sheet.groups():
        lines.append("<tbody>")
        if group:
            span = f'colspan="{len(sheet.columns)}"'
            lines.append(f'<tr class="group"><th scope="rowgroup">{escape(group)}</th><td {span}></td></tr>')
        lines += [_row(row, runs) for row in rows]
        lines.append("</tbody>")
    lines.append("</table></div>")
    lines += [*_below(sheet), "</section>"]
    return "\n".join(lines)


def links(runs: str, named: tuple[tuple[str, str], ...]) -> str:
    """Return one link per record."""
    return " ".join(f'<a href="{runs}/{escape(run_id)}.json">{escape(name)}</a>' for name, run_id in named)


def _row(row: SheetRow, runs: str) -> str:
    cells = "".join(
        f'<td class="{cell[0].state if cell else "empty"}">{_cell(cell, runs)}</td>' for cell in row.cells
    )
    return f'<tr><th scope="row">{escape(row.title)}{_raised(row.marks)}</th>{cells}</tr>'


def _cell(cell: tuple[Line, ...], runs: str) -> str:
    """Return the lines of a cell, and below all of them the links to the records."""
    found = [line for line in cell if line.runs]
    if len({line.runs for line in found}) == 1:
        found = [replace(found[0], label="")]
    return "".join([*map(_line, cell), *(_records(line, runs) for line in found)])


def _line(line: Line) -> str:
    tag = {"best": "b", "second": "u", None: "span"}[line.rank]
    label = "paper" if line.role == "paper" else line.label
    front = f'<span class="side">{escape(label)}</span> ' if label else ""
    number = f"<{tag}>{escape(line.text)}</{tag}>{_raised(line.marks)}"
    count = f" <small>{escape(line.count)}</small>" if line.count else ""
    delta = f" <small>({escape(line.delta)})</small>" if line.delta else ""
    found = [f'<div class="{line.role}">{front}{number}{count}{delta}</div>']
    if line.detail:
        found.append(f'<div class="detail">{escape(line.detail)}</div>')
    return "".join(found)


def _records(line: Line, runs: str) -> str:
    """Link a few records by seed; fold the many records of a derived cell."""
    if line.is_by_seed:
        word = "seed" if len(line.runs) == 1 else "seeds"
        return f'<div class="records">{_side(line)}{word} {links(runs, line.runs)}</div>'
    many = f"{len(line.runs)} record{'s' if len(line.runs) > 1 else ''}"
    return (
        f'<details class="records"><summary>{_side(line)}{many}</summary>{links(runs, line.runs)}</details>'
    )


def _side(line: Line) -> str:
    return f"{escape(line.label)}: " if line.label else ""


def _below(sheet: Sheet) -> list[str]:
    lines = ['<ul class="below">', *(f"<li>{escape(text)}</li>" for text in (*sheet.legend, *sheet.notes))]
    lines += [f"<li>{_raised((mark,))} {escape(text)}</li>" for mark, text in sheet.footnotes]
    return [*lines, "</ul>", '<dl class="below">', *(_footer(footer) for footer in sheet.footers), "</dl>"]


def _footer(footer: Footer) -> str:
    text = f"<code>{escape(footer.text)}</code>" if footer.is_command else escape(footer.text)
    return f"<dt>{escape(footer.label)}</dt><dd>{text}</dd>"


def _raised(marks: tuple[str, ...]) -> str:
    return f"<sup>{escape(','.join(marks))}</sup>" if marks else ""
