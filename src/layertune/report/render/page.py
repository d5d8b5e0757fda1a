"""All tables of all backbones as one page that needs no other file, and what no table shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from layertune.records.record import Record
from layertune.report.index import RecordIndex
from layertune.report.render.footers import READ_OUTS
from layertune.report.render.html_table import links, to_html
from layertune.report.render.others import OtherRuns, other_runs, other_settings
from layertune.report.render.page_style import STYLE
from layertune.report.render.sheet import Sheet
from layertune.report.render.words import STATE_MEANING
from layertune.report.request import Request
from layertune.report.spec import model_title

INTRO = "Every number comes from the records it links to, none is typed. A cell without a number says why."


def to_page(
    tables: Mapping[Request, Sequence[Sheet]],
    index: RecordIndex,
    shown: Iterable[str],
    runs: str = "../runs",
) -> str:
    """Return the page.

    Args:
        tables: the sheets of each backbone.
        index: all records, for those that no table shows.
        shown: run ids that a table uses or lists.
        runs: path from the page to the folder of records.
    """
    ids = set(shown)
    others: dict[str, list[Record]] = {}
    for record in index.records:
        if record.run_id not in ids:
            others.setdefault(record.spec.model, []).append(record)
    body = ["<h1>layertune: tables</h1>", f"<p>{INTRO}</p>", _overview(tables), _signs()]
    for request, sheets in tables.items():
        body += _backbone(request, sheets, others.pop(request.model, []), runs)
    for model in sorted(others):
        body += [
            f'<h2 id="{escape(model)}">{escape(model)}</h2>',
            "<p>No tables were made of this model.</p>",
        ]
        command = other_settings(others[model], Request(model)) or Request(model).make()
        body.append(f"<p>Its tables: <code>{escape(command)}</code></p>")
        body.append(_others(other_runs(others[model], "last"), runs))
    body.append(_damaged(index.damaged))
    return document("layertune: tables", body)


def to_comparison(title: str, sheets: Sequence[Sheet], index: RecordIndex, runs: str) -> str:
    """Return the page of a comparison."""
    body = [f"<h1>{escape(title)}</h1>", f"<p>{INTRO}</p>"]
    body.append(f"<nav>{' '.join(_jump(sheet, sheet.name) for sheet in sheets)}</nav>")
    body += [_section(sheet, runs, sheet.name) for sheet in sheets]
    body.append(_damaged(index.damaged))
    return document(title, body)


def document(title: str, body: Iterable[str]) -> str:
    """Return a whole HTML document."""
    text = "\n".join(part for part in body if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{text}\n</body>\n</html>\n"
    )


def _backbone(request: Request, sheets: Sequence[Sheet], others: Sequence[Record], runs: str) -> list[str]:
    """Return a backbone's heading, its ten tables and its other records."""
    name = escape(request.model)
    asked = " ".join((f"model={request.model}", *request.settings))
    lines = [
        f'<h2 id="{escape(request.folder)}">{escape(model_title(request.model))} ({escape(asked)})</h2>',
        f"<p>Read-out {escape(READ_OUTS[request.readout])}.</p>",
        f"<p>Made by <code>{escape(request.make())}</code></p>",
        f"<nav>{' '.join(_jump(sheet, _anchor(request, sheet)) for sheet in sheets)}</nav>",
    ]
    lines += [_section(sheet, runs, _anchor(request, sheet)) for sheet in sheets]
    if others:
        if command := other_settings(others, request):
            told = f"Most records of {name} that no table shows were made with other settings"
            lines.insert(3, f"<p>{told}: <code>{escape(command)}</code></p>")
        lines.append(_others(other_runs(others, request.readout), runs))
    return lines


def _section(sheet: Sheet, runs: str, anchor: str) -> str:
    """Return a table; folded where there is not one record, and it says so."""
    if not sheet.is_empty:
        return to_html(sheet, runs, anchor)
    told = f"{escape(sheet.title)}: all {_cells(sheet)} cells are missing"
    return f'<details id="{anchor}"><summary>{told}</summary>\n{to_html(sheet, runs, "")}\n</details>'


def _overview(tables: Mapping[Request, Sequence[Sheet]]) -> str:
    """Return done cells of all cells, backbone by table, as links."""
    names = list(dict.fromkeys(sheet.name for sheets in tables.values() for sheet in sheets))
    head = "".join(f'<th scope="col">{escape(name.removeprefix("table"))}</th>' for name in names)
    lines = [
        "<h2>Coverage</h2>",
        "<p>Cells that are done, of all cells, by table.</p>",
        f'<div class="wide"><table class="overview"><thead><tr><th>Table</th>{head}</tr></thead><tbody>',
    ]
    for request, sheets in tables.items():
        cells = "".join(
            f'<td><a href="#{_anchor(request, sheet)}">{_cells(sheet) - sheet.gaps}/{_cells(sheet)}</a></td>'
            for sheet in sheets
        )
        name = escape(request.folder)
        lines.append(f'<tr><th scope="row"><a href="#{name}">{name}</a></th>{cells}</tr>')
    return "\n".join([*lines, "</tbody></table></div>"])


def _signs() -> str:
    meanings = "".join(f"<li>{escape(text)}</li>" for text in STATE_MEANING.values())
    return f'<ul class="below">{meanings}</ul>'


def _others(found: Sequence[OtherRuns], runs: str) -> str:
    """Return the table of records that no table above shows."""
    number = sum(len(one.runs) for one in found)
    lines = [
        f"<details><summary>Other records: {number} that no table shows</summary>",
        '<div class="wide"><table class="others"><thead><tr><th>Task</th><th>Method</th><th>Asked for</th>'
        "<th>State</th><th>Score (record)</th></tr></thead><tbody>",
    ]
    for one in found:
        scores = ", ".join(
            f"{escape(score)} ({links(runs, (run,))})"
            for score, run in zip(one.scores, one.runs, strict=True)
        )
        data = "" if one.is_official else " ‡"
        lines.append(
            f"<tr><td>{escape(one.task)}{data}</td><td>{escape(one.method)}</td>"
            f"<td>{escape(one.settings)}</td><td>{escape(one.status)}</td><td>{scores}</td></tr>"
        )
    lines.append("</tbody></table></div><p>In brackets the seed. ‡ not the official data.</p></details>")
    return "\n".join(lines)


def _damaged(damaged: Sequence[str]) -> str:
    """Name the files among the records that are none, each with its reason."""
    if not damaged:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in damaged)
    return f"<h2>Damaged records, not used</h2>\n<ul>{items}</ul>"


def _jump(sheet: Sheet, anchor: str) -> str:
    return f'<a href="#{anchor}">{escape(sheet.title.partition(",")[0])}</a>'


def _anchor(request: Request, sheet: Sheet) -> str:
    return escape(f"{request.folder}-{sheet.name}")


def _cells(sheet: Sheet) -> int:
    return len(sheet.rows) * len(sheet.columns)
