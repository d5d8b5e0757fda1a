"""`make tables`: the ten tables of a backbone in four formats, and the page of all backbones.

What is written depends on the records and the request alone: no clock, no commit of the moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from layertune.config.files import write_atomic
from layertune.report.index import RecordIndex
from layertune.report.render.build import sheet_of
from layertune.report.render.compare import compared, folder_name, title_of_comparison
from layertune.report.render.latex import to_latex
from layertune.report.render.markdown import to_markdown
from layertune.report.render.others import other_settings
from layertune.report.render.page import to_comparison, to_page
from layertune.report.render.sheet import Sheet
from layertune.report.render.values_csv import to_csv
from layertune.report.request import FILE, TABLES, Request, read_request
from layertune.report.values import TableValues, table_values


@dataclass(frozen=True)
class Written:
    """What was written, and how complete it is."""

    page: Path
    files: tuple[Path, ...]
    index: RecordIndex  # the records that were read
    coverage: tuple[tuple[str, int, int], ...]  # table, cells done, cells
    hint: str = ""  # the command whose tables show most of the records that these leave out

    @property
    def gaps(self) -> int:
        """Cells that are not done."""
        return sum(cells - done for _, done, cells in self.coverage)


def write_tables(request: Request, results: Path) -> Written:
    """Write table1.md ... table10.csv into the folder of the request, and `<results>/tables/index.html`.

    The page shows every folder, each as its own request asks.

    Raises:
        ConfigError: an unknown model or setting, or a folder whose request is damaged.
    """
    folder = results / "tables"
    index = RecordIndex.read(results / "runs")
    values = {request: _values(request, index)}
    for path in sorted(folder.glob(f"*/{FILE}")):
        if path.parent.name != request.folder:
            other = read_request(path)
            values[other] = _values(other, index)
    order = sorted(values, key=lambda one: (one.model != "bert", one.folder))
    sheets = {one: [sheet_of(table, one) for table in values[one]] for one in order}
    request.write(folder / request.folder)
    files = _write(folder / request.folder, sheets[request], [[table] for table in values[request]])
    shown = {run_id for tables in values.values() for table in tables for run_id in _shown(table)}
    page = write_atomic(folder / "index.html", to_page(sheets, index, shown).encode())
    left_out = [
        record
        for record in index.records
        if record.run_id not in shown and record.spec.model == request.model
    ]
    hint = other_settings(left_out, request)
    return Written(page, tuple(files), index, _coverage(values[request]), hint)


def write_comparison(one: Request, other: Request, results: Path) -> Written:
    """Write `<results>/tables/<one>_and_<other>/`: ten tables with both sides in each cell, and a page."""
    folder = results / "tables" / folder_name(one, other)
    index = RecordIndex.read(results / "runs")
    sides = _values(one, index), _values(other, index)
    sheets = [compared((one, first), (other, second)) for first, second in zip(*sides, strict=True)]
    files = _write(folder, sheets, [list(pair) for pair in zip(*sides, strict=True)])
    title = f"layertune: {title_of_comparison(one, other)}"
    page = write_atomic(folder / "index.html", to_comparison(title, sheets, index, "../../runs").encode())
    return Written(page, tuple(files), index, _coverage([*sides[0], *sides[1]]))


def _values(request: Request, index: RecordIndex) -> list[TableValues]:
    return [table_values(request.table(name), index, request.readout) for name in TABLES]


def _write(folder: Path, sheets: Sequence[Sheet], values: Sequence[Sequence[TableValues]]) -> list[Path]:
    """Write each sheet in three formats; return the paths."""
    files = []
    for sheet, tables in zip(sheets, values, strict=True):
        for suffix, text in (
            ("md", to_markdown(sheet)),
            ("tex", to_latex(sheet)),
            ("csv", to_csv(*tables)),
        ):
            files.append(write_atomic(folder / f"{sheet.name}.{suffix}", text.encode()))
    return files


def _shown(table: TableValues) -> Iterable[str]:
    """Return the run ids that a table uses or names."""
    yield from (record.run_id for record in table.records)
    yield from table.stale


def _coverage(tables: Iterable[TableValues]) -> tuple[tuple[str, int, int], ...]:
    found = []
    for table in tables:
        states = [value.state for value in table.cells.values()]
        found.append((table.spec.name, states.count("done"), len(states)))
    return tuple(found)
