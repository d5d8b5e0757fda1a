"""The page of all backbones: of each first what was run and what it shows, then its tables, then the rest."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from layertune.records.record import Record
from layertune.records.store import is_stale
from layertune.report.index import RecordIndex
from layertune.report.paper import the_paper
from layertune.report.paper_claims import STRATEGIES
from layertune.report.render.formats import to_html
from layertune.report.render.sheet import Sheet
from layertune.report.render.words import READ_OUTS, STATE_MEANING, counted, listed
from layertune.report.request import COMPARED, NO_SETTINGS, Request
from layertune.report.rounding import printed
from layertune.report.summary import three_numbers
from layertune.report.values import MARKS, ReadOut, TableValues

NAMED = 3  # methods that a sentence names
_SAID = ("model", "task", "method", "seed", "protocol", "train", "grid", "stage", "tracking", "force")


@dataclass(frozen=True)
class Backbone:
    """What the page shows of one request."""

    request: Request
    title: str  # the model's
    sheets: Sequence[Sheet]
    sentences: Sequence[str] = ()
    hint: str = ""  # the command whose tables show most of its other records
    picture: str = ""  # path from the page
    links: Sequence[tuple[str, str]] = ()  # words, path from the page

    @property
    def shown(self) -> bool:
        """Whether any table has a record; one without is a line."""
        return not all(sheet.is_empty for sheet in self.sheets)

    def place_of(self, sheet: Sheet) -> str:
        """Return where a table stands: on the page, or in a file of its own where nothing is recorded."""
        folder = self.request.folder
        return f"{folder}/{sheet.name}.md" if sheet.is_empty else f"#{folder}-{sheet.name}"


@dataclass(frozen=True)
class OtherRuns:
    """Seeds of one configuration that no table asks for."""

    task: str
    method: str
    settings: str  # protocol, mode and grid, and what else was asked for
    status: str
    scores: tuple[str, ...]  # as printed, in order of the runs
    runs: tuple[tuple[str, str], ...]  # seed, run id
    is_official: bool


def to_page(
    backbones: Sequence[Backbone], index: RecordIndex, shown: Iterable[str], runs: str = "../runs"
) -> str:
    """Return the page.

    Args:
        backbones: the requests that have a folder.
        index: all records, for those that no table shows.
        shown: run ids that a table uses or lists.
        runs: path from the page to the folder of records.
    """
    ids = set(shown)
    left_out: dict[str, list[Record]] = {}
    for record in index.records:
        if record.run_id not in ids:
            left_out.setdefault(record.spec.model, []).append(record)
    with_tables = {one.request.model: one.request for one in backbones}
    others = [
        (model, other_settings(left_out[model], Request(model)) or Request(model).make())
        for model in sorted(left_out)
        if model not in with_tables
    ]
    found: list[tuple[str, list[OtherRuns]]] = [
        (model, other_runs(left_out[model], with_tables[model].readout if model in with_tables else "last"))
        for model in sorted(left_out)
    ]
    return to_html(
        "page",
        title="layertune: tables",
        backbones=backbones,
        others=others,
        other_runs=found,
        runs=runs,
        damaged=index.damaged,
        signs=STATE_MEANING.values(),
    )


def to_comparison(title: str, sheets: Sequence[Sheet], index: RecordIndex, runs: str) -> str:
    """Return the page of a comparison."""
    return to_html("comparison", title=title, sheets=sheets, runs=runs, damaged=index.damaged)


def sentences(tables: Sequence[TableValues], request: Request) -> list[str]:
    """Say what was run for the tables of a request, and what they show."""
    records = list({record.run_id: record for table in tables for record in table.records}.values())
    if not records:
        return []
    cells = [value for table in tables for value in table.cells.values()]
    found = [counted(len(records), "run"), "of", counted(len({r.spec.method for r in records}), "method")]
    found += ["on", counted(len({r.spec.task for r in records}), "task")]
    used = sorted({record.spec.seed for record in records})
    seeds = f"seed{'s' * (len(used) > 1)} {listed([str(seed) for seed in used])}"
    devices = "; ".join(sorted({record.device for record in records}))
    done = sum(value.state == "done" for value in cells)
    lines = [
        f"{' '.join(found)}, {seeds}, on {devices}: {done} of {len(cells)} cells of the ten tables are "
        f"done. Read-out {READ_OUTS[request.readout]}."
    ]
    statuses = Counter(record.data_status for record in records if not record.is_official)
    if statuses:
        told = ", ".join(f"{status} ({count} runs)" for status, count in sorted(statuses.items()))
        lines.append(
            f"{MARKS['data']} Not on the official data: {told}. The paper's numbers are of other rows."
        )
    stale = {run_id for table in tables for run_id in table.stale}
    if stale:
        lines.append(
            f"{counted(len(stale), 'record')} of older versions not used: run.py repeats these runs."
        )
    for table in tables:
        if table.spec.name == COMPARED[0] and (first := three_numbers(table.records, the_paper())):
            lines.append(f"{table.spec.title}: {first}.")
        if table.spec.name in COMPARED:
            lines.append(_ranking(table))
    return lines


def _ranking(table: TableValues) -> str:
    """Say which methods lead a table's average, over the rows that have one.

    Where fewer than two learned something on every task, it is that of the tasks on which all of them did.
    """
    average = next(column for column in table.spec.columns if column.mean_of)
    cells = {row.key: table.cell(row.key, average.key) for row in table.spec.rows}
    whole = {key: cell for key, cell in cells.items() if cell.mean is not None}
    averages = {key: cell.mean for key, cell in whole.items() if cell.mean is not None and cell.has_learned}
    title, tasks = table.spec.title, counted(len(average.mean_of), "task")
    if len(averages) < 2 <= len(whole):
        keys = [k for k in average.mean_of if all(table.cell(row, k).has_learned for row in whole)]
        found = {row: [m for k in keys if (m := table.cell(row, k).mean) is not None] for row in whole}
        averages = {row: statistics.fmean(own) for row, own in found.items() if own}
        tasks = f"the {len(keys)} of {tasks} on which all learned something ({MARKS['majority']})"
    if len(averages) < 2:
        why = "fewer than two methods have all tasks and seeds"
        if len(whole) > 1:
            why = f"on no task have all {len(whole)} complete methods learned something ({MARKS['majority']})"
        return f"{title}: {why}: no average compares yet."
    named = {
        row.key: f"{row.title} {printed(averages[row.key], 1)}"
        for row in table.spec.rows
        if row.key in averages
    }
    full = named.pop("full", "")
    order = sorted(named, key=lambda key: -averages[key])
    ours = [named[key] for key in order if key in STRATEGIES]
    text = f"{title}, average of {tasks}, {len(averages)} of {len(table.spec.rows)} rows: "
    text += f"{full}; " if full else "full fine-tuning is missing; "
    text += f"the best others {listed([named[key] for key in order[:NAMED]])}"
    return text + (f"; layers by cosine score: {listed(ours)}." if ours else ".")


def other_runs(records: Iterable[Record], readout: ReadOut) -> list[OtherRuns]:
    """Put the seeds of a configuration together, in order of task, method and settings."""
    groups: dict[tuple[str, str, str, str, bool], list[Record]] = {}
    for record in records:
        stated = (record.spec.task, _method(record), _settings(record))
        key = (*stated, str(record.status), record.is_official)
        groups.setdefault(key, []).append(record)
    found = []
    for key in sorted(groups):
        seeds = sorted(groups[key], key=lambda record: (record.spec.seed, record.run_id))
        task, method, settings, status, is_official = key
        found.append(
            OtherRuns(
                task,
                method,
                settings,
                status,
                tuple(_score(record, readout) for record in seeds),
                tuple((str(record.spec.seed), record.run_id) for record in seeds),
                is_official,
            )
        )
    return found


def other_settings(records: Iterable[Record], request: Request) -> str:
    """Return the command whose tables would show most of these records; "" where those of the request do.

    A table shows only records of its own settings: those of `train.epochs=3` appear where that is asked.
    """
    asked = Counter(
        _request_of(record, request)
        for record in records
        if record.spec.stage == "run" and not is_stale(record)
    )
    if not asked:
        return ""
    most = min(asked, key=lambda one: (-asked[one], one.make()))
    return "" if most.folder == request.folder else most.make()


def _request_of(record: Record, request: Request) -> Request:
    """Return the request whose tables can show a record; paper and timing are the tables' own protocols."""
    spec = record.spec
    protocol = None if spec.protocol in ("paper", "timing") else spec.protocol
    return replace(request, train=spec.train, grid=spec.grid, protocol=protocol, overrides=_own(record))


def _method(record: Record) -> str:
    return record.spec.method + ("" if record.spec.k is None else f", k = {record.spec.k}")


def _settings(record: Record) -> str:
    """Name mode and overrides; what the columns say, paths and threads are left out."""
    spec = record.spec
    return ", ".join([f"protocol {spec.protocol}, train {spec.train}, grid {spec.grid}", *_own(record)])


def _own(record: Record) -> tuple[str, ...]:
    """Return the overrides of a record that are not about what its columns say, paths or threads."""
    given = record.spec.overrides
    return tuple(text for text in given if text.partition("=")[0] not in (*_SAID, *NO_SETTINGS))


def _score(record: Record, readout: ReadOut) -> str:
    """Return the first metric of the task's own split, in percent; "none" of a run that is not done."""
    name, value = record.headline(readout)
    return f"{name} {printed(100 * value, 1)}" if value is not None and record.status == "done" else "none"
