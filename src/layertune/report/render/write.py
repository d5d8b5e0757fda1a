"""`make tables`: the ten tables of a backbone in four formats, and the page of all backbones.

What is written depends on the records and the request alone: no clock, no commit of the moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from layertune.config.files import write_atomic
from layertune.errors import ConfigError
from layertune.report.figures import style
from layertune.report.figures.cost import mean_cost_figure, mean_points
from layertune.report.index import RecordIndex
from layertune.report.render.build import compared, folder_name, sheet_of, title_of_comparison
from layertune.report.render.formats import to_csv, to_latex, to_markdown
from layertune.report.render.page import Backbone, other_settings, sentences, to_comparison, to_page
from layertune.report.render.sheet import Sheet
from layertune.report.request import COMPARED, FILE, Request, read_request
from layertune.report.spec import model_title, printed_tables
from layertune.report.values import TableValues, table_values

PICTURE = "cost.svg"
PAGE = Path("tables", "index.html")  # below results_dir


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
    values = _all_values(request, index, folder)
    own = values[request]
    with request.looking():
        sheets = [sheet_of(table, request) for table in own]
        request.write(folder / request.folder)
        files = _write(folder / request.folder, request.folder, sheets, [[table] for table in own])
        files += _picture(request, own, index, folder / request.folder)
    backbones = _write_page(values, index, results)
    hint = next(one.hint for one in backbones if one.request == request)
    return Written(results / PAGE, tuple(files), index, _coverage(own), hint)


def renew_page(results: Path) -> None:
    """Write the page anew where there is one: it links to the claims and figures made since.

    Whoever made these has named what is damaged.

    Raises:
        ConfigError: a folder's request is damaged.
    """
    if (results / PAGE).is_file():
        index = RecordIndex.read(results / "runs", aloud=False)
        _write_page(_all_values(None, index, results / "tables"), index, results)


def write_comparison(one: Request, other: Request, results: Path) -> Written:
    """Write `<results>/tables/<one>_and_<other>/`: ten tables with both sides in each cell, and a page."""
    folder = results / "tables" / folder_name(one, other)
    index = RecordIndex.read(results / "runs")
    sides = _values(one, index), _values(other, index)
    with one.looking():
        sheets = [compared((one, first), (other, second)) for first, second in zip(*sides, strict=True)]
        title = f"layertune: {title_of_comparison(one, other)}"
    files = _write(folder, folder.name, sheets, [list(pair) for pair in zip(*sides, strict=True)])
    page = write_atomic(folder / "index.html", to_comparison(title, sheets, index, "../../runs").encode())
    return Written(page, tuple(files), index, _coverage([*sides[0], *sides[1]]))


def _all_values(
    request: Request | None, index: RecordIndex, folder: Path
) -> dict[Request, list[TableValues]]:
    """Return the tables of a request, and those of every other one that has a folder."""
    values = {} if request is None else {request: _values(request, index)}
    for path in sorted(folder.glob(f"*/{FILE}")):
        if request is None or path.parent.name != request.folder:
            other = read_request(path)
            if other.config_dir and not Path(other.config_dir).is_dir():
                raise ConfigError(
                    f"{path} asks for --config-dir={other.config_dir}, which is no folder: bring it back, or "
                    f"delete {path.parent}."
                )
            values[other] = _values(other, index)
    return values


def _write_page(
    values: Mapping[Request, list[TableValues]], index: RecordIndex, results: Path
) -> list[Backbone]:
    """Write the page of some requests, the one with most records first; return what it shows of each."""
    used = {one: len({run_id for table in values[one] for run_id in table.run_ids}) for one in values}
    order = sorted(values, key=lambda one: (-used[one], one.model != "bert", one.folder))
    shown = {
        run_id for tables in values.values() for table in tables for run_id in (*table.run_ids, *table.stale)
    }
    backbones = [_backbone(one, values[one], index, shown, results) for one in order]
    write_atomic(results / PAGE, to_page(backbones, index, shown).encode())
    return backbones


def _backbone(
    request: Request, tables: list[TableValues], index: RecordIndex, shown: set[str], results: Path
) -> Backbone:
    """Return what the page shows of a request; it links to the claims and figures that lie in `results`."""
    figures = [f"figures/{folder}/index.html" for folder in (request.folder, request.model)]
    places = [("which claims hold", f"claims/{request.folder}.md")]
    places += [("figures", place) for place in figures if (results / place).is_file()][:1]
    left_out = [one for one in index.records if one.run_id not in shown and one.spec.model == request.model]
    picture = f"{request.folder}/{PICTURE}"
    with request.looking():
        return Backbone(
            request,
            model_title(request.model),
            [sheet_of(table, request) for table in tables],
            sentences(tables, request),
            other_settings(left_out, request),
            picture if (results / "tables" / picture).is_file() else "",
            [(words, f"../{place}") for words, place in places if (results / place).is_file()],
        )


def _picture(request: Request, tables: list[TableValues], index: RecordIndex, folder: Path) -> list[Path]:
    """Draw scores against costs over all tasks; nothing, and what was drawn is removed, with too few runs."""
    points, tasks = mean_points([table for table in tables if table.spec.name in COMPARED], index)
    if not points:
        (folder / PICTURE).unlink(missing_ok=True)
        return []
    return [style.save(mean_cost_figure(points, tasks, model_title(request.model)), folder / PICTURE)]


def _values(request: Request, index: RecordIndex) -> list[TableValues]:
    with request.looking():
        return [table_values(request.table(name), index, request.readout) for name in printed_tables()]


def _write(
    folder: Path, label: str, sheets: Sequence[Sheet], values: Sequence[Sequence[TableValues]]
) -> list[Path]:
    """Write each sheet in three formats; return the paths."""
    files = []
    for sheet, tables in zip(sheets, values, strict=True):
        for suffix, text in (
            ("md", to_markdown(sheet)),
            ("tex", to_latex(sheet, label)),
            ("csv", to_csv(*tables)),
        ):
            files.append(write_atomic(folder / f"{sheet.name}.{suffix}", text.encode()))
    return files


def _coverage(tables: Iterable[TableValues]) -> tuple[tuple[str, int, int], ...]:
    found = []
    for table in tables:
        states = [value.state for value in table.cells.values()]
        found.append((table.spec.name, states.count("done"), len(states)))
    return tuple(found)
