"""A sheet as Markdown: a table, and below it the records behind every cell, as links."""

from __future__ import annotations

from layertune.report.render.sheet import Footer, Line, Sheet

DERIVED = "An average, or a best of rows, comes from the records of the cells it is made of."


def to_markdown(sheet: Sheet, runs: str = "../../runs") -> str:
    """Return the text of a sheet; `runs` is the path from the file to the folder of records."""
    columns = [_escaped(title) + _raised(marks) for title, marks in sheet.columns]
    lines = [f"# {sheet.title}", "", sheet.caption, "", _row(["", *columns])]
    lines.append("|:--|" + "--:|" * len(columns))
    for group, rows in sheet.groups():
        if group:
            lines.append(_row([f"*{_escaped(group)}*", *[""] * len(columns)]))
        for row in rows:
            head = _escaped(row.title) + _raised(row.marks)
            lines.append(_row([head, *("<br>".join(_line(line) for line in cell) for cell in row.cells)]))
    lines += ["", *_bullets(sheet.legend), *_bullets(sheet.notes)]
    lines += [f"- {_raised((mark,))} {_escaped(text)}" for mark, text in sheet.footnotes]
    lines += ["", *(_footer(footer) for footer in sheet.footers)]
    lines += _records(sheet, runs)
    return "\n".join(lines).rstrip() + "\n"


def _line(line: Line) -> str:
    text = _escaped(line.text)
    if line.rank == "best":
        text = f"**{text}**"
    elif line.rank == "second":
        text = f"<u>{text}</u>"
    behind = "".join(f" {part}" for part in (line.count, f"({line.delta})" if line.delta else "") if part)
    below = f"<br><sub>{_escaped(line.detail)}</sub>" if line.detail else ""
    front = "paper " if line.role == "paper" else f"{_escaped(line.label)}: " if line.label else ""
    small = f"{front}{text}{_raised(line.marks)}{behind}{below}"
    return small if line.role == "ours" else f"<sub>{small}</sub>"


def _records(sheet: Sheet, runs: str) -> list[str]:
    """List the records behind each cell; a cell derived from others is traced through them."""
    found = []
    for row in sheet.rows:
        for (column, _), cell in zip(sheet.columns, row.cells, strict=True):
            for line in cell:
                if line.is_by_seed:
                    links = ", ".join(f"[{name}]({runs}/{run_id}.json)" for name, run_id in line.runs)
                    where = f"{row.title}, {column}" + (f", {line.label}" if line.label else "")
                    found.append(f"- {_escaped(where)}: {links}")
    if not found:
        return []
    return [
        "",
        "<details><summary>Records behind each cell, by seed</summary>",
        "",
        DERIVED,
        "",
        *found,
        "",
        "</details>",
    ]


def _footer(footer: Footer) -> str:
    text = f"`{footer.text}`" if footer.is_command else _escaped(footer.text)
    return f"- {footer.label}: {text}"


def _bullets(texts: tuple[str, ...]) -> list[str]:
    return [f"- {_escaped(text)}" for text in texts]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _raised(marks: tuple[str, ...]) -> str:
    return f"<sup>{','.join(_escaped(mark) for mark in marks)}</sup>" if marks else ""


def _escaped(text: str) -> str:
    """Escape what Markdown reads as markup."""
    for sign in "\\`*_|<>[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
