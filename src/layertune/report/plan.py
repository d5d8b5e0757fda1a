"""What is still to be run for some tables: which runs, their commands, and what they should take.

`make plan` prints a plan; the table sweeper of `python run.py -m hydra/sweeper=table` runs one. Both read the
same words: `table=table1 model=gte_small task=trec,cr seed=0 train.epochs=3`.
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from layertune.config import RunConfig
from layertune.config.groups import own_folders
from layertune.errors import ConfigError
from layertune.records.store import Store
from layertune.report.estimate import Estimate, Estimator
from layertune.report.index import RecordIndex, RunState
from layertune.report.request import Question, Request
from layertune.report.spec import Cell, TableSpec

SEARCHES = Path("search", "records")  # below results_dir


@dataclass(frozen=True)
class PlannedRun:
    """One run that no finished record answers."""

    run: RunConfig
    state: RunState  # missing, failed, oom, interrupted, stale; done where force=true repeats it
    tables: tuple[str, ...]  # those that need it
    estimate: Estimate

    @property
    def command(self) -> str:
        """The command that makes its record."""
        folders = [f"--config-dir={folder}" for folder in own_folders()]
        return shlex.join(["python", "run.py", *folders, *self.run.overrides])

    @property
    def overrides(self) -> list[str]:
        """The words of that command."""
        return list(self.run.overrides)


@dataclass(frozen=True)
class TableCost:
    """One line of the totals."""

    name: str
    runs: int
    done: int
    left: int  # to run; what is neither is refused
    seconds: float
    memory_bytes: float  # the largest peak
    unknown: int  # runs without an estimate


@dataclass(frozen=True)
class Plan:
    """All that is to be run, longest first; a run that several tables need is there once."""

    runs: tuple[PlannedRun, ...]
    totals: tuple[TableCost, ...]  # per table, then of all tables
    refused: tuple[str, ...]  # records that answer a run and cannot be used: running again changes nothing
    device: str  # that the hours are of


def read_index(words: Iterable[str]) -> RecordIndex:
    """Return the records in the store that some words name, and those of the searches beside them.

    A search measures what the runs of its model will take, on the same machine.
    """
    tracked, scratch = store_of(words).folders
    return RecordIndex.read(tracked, scratch, tracked.parent / SEARCHES)


def store_of(words: Iterable[str]) -> Store:
    """Return the store below `results_dir` and `outputs_dir`, as the words have them or by default."""
    return Store(
        **dict(word.split("=", 1) for word in words if word.startswith(("results_dir=", "outputs_dir=")))
    )


def make_plan(question: Question, index: RecordIndex, device: str | None = None) -> Plan:
    """Return what is to be run for some tables.

    Args:
        question: the tables, and which of their runs.
        index: the records.
        device: part of the name of the recorded device that hours are of; None = the one with most records.

    Raises:
        ConfigError: a run does not compose, or nothing is selected.
    """
    specs = question.specs()
    _refuse_lost_words(specs, question.request)
    needed = {spec.name: _selected(_needed(spec, index), question) for spec in specs}
    runs = {run.config_sha256: run for found in needed.values() for run in found}
    _refuse_lost_choices(question, [run for spec in specs for run in spec.runs()])
    if not runs:
        raise ConfigError(
            f"{', '.join(question.tables)}: other records fill all cells of {_shown(question.only or {})}."
        )
    estimator = Estimator(index, [run.model.name for run in runs.values()], device)
    planned: dict[str, PlannedRun] = {}
    refused: dict[str, tuple[str, ...]] = {}
    for sha256, run in runs.items():
        found = index.find(run)
        if found.state == "refused":
            refused[sha256] = found.notes
        elif run.force or found.state != "done":
            tables = tuple(name for name, of in needed.items() if any(r.config_sha256 == sha256 for r in of))
            planned[sha256] = PlannedRun(run, found.state, tables, estimator.estimate(run))
    hashes = {name: [run.config_sha256 for run in found] for name, found in needed.items()}
    hashes |= {"all": list(runs)} if len(hashes) > 1 else {}
    totals = tuple(_total(name, wanted, planned, refused) for name, wanted in hashes.items())
    longest_first = sorted(planned.values(), key=lambda one: -(one.estimate.seconds or 0.0))
    notes = tuple(dict.fromkeys(note for found in refused.values() for note in found))
    return Plan(tuple(longest_first), totals, notes, estimator.device)


def _needed(spec: TableSpec, index: RecordIndex) -> list[RunConfig]:
    """Return the runs of a table, without those of cells that another record fills."""
    filled: set[str] = set()

    def look_at(cell: Cell) -> None:
        for part in cell.parts:
            look_at(part)
        first, *others = cell.own_runs() if cell.how == "any" else (None,)
        if first is not None and any(index.find(run).state == "done" for run in others):
            filled.add(first.config_sha256)

    for cell in spec.cells():
        look_at(cell)
    return [run for run in spec.runs() if run.config_sha256 not in filled]


def _selected(runs: Iterable[RunConfig], question: Question) -> list[RunConfig]:
    only = question.only or {}
    return [
        run
        for run in runs
        if run.task.name in only.get("task", (run.task.name,))
        and run.method.name in only.get("method", (run.method.name,))
        and str(run.seed) in only.get("seed", (str(run.seed),))
    ]


def _refuse_lost_choices(question: Question, runs: Sequence[RunConfig]) -> None:
    """Refuse values of task, method or seed that fit no run; name those that do."""
    only = question.only or {}
    there = [{"task": run.task.name, "method": run.method.name, "seed": str(run.seed)} for run in runs]
    for key, wanted in only.items():
        fitting = [
            one for one in there if all(one[other] in only[other] for other in only if other != key)
        ] or there
        values = list(dict.fromkeys(one[key] for one in fitting))
        lost = [value for value in wanted if value not in values]
        if lost:
            others = {other: values for other, values in only.items() if other != key}
            beside = f" beside {_shown(others)}" if others and fitting is not there else ""
            raise ConfigError(
                f"{', '.join(question.tables)}: no run fits {key}={','.join(lost)}{beside}; "
                f"{key} is one of: {', '.join(values)}."
            )


def _refuse_lost_words(specs: Iterable[TableSpec], request: Request) -> None:
    """Refuse `model.*` words where no row is of the model that they are about."""
    lost = [word for word in request.overrides if word.startswith("model.")]
    if lost and not any(row.model == spec.chosen for spec in specs for row in spec.rows):
        raise ConfigError(
            f"{' '.join(lost)} is about model={request.model}, and no row is of it: say model=<name>."
        )


def _total(
    name: str, wanted: Sequence[str], planned: Mapping[str, PlannedRun], refused: Collection[str]
) -> TableCost:
    left = [planned[sha256].estimate for sha256 in wanted if sha256 in planned]
    return TableCost(
        name=name,
        runs=len(wanted),
        done=len(wanted) - len(left) - sum(sha256 in refused for sha256 in wanted),
        left=len(left),
        seconds=sum(estimate.seconds or 0.0 for estimate in left),
        memory_bytes=max((estimate.memory_bytes or 0.0 for estimate in left), default=0.0),
        unknown=sum(estimate.seconds is None for estimate in left),
    )


def _shown(only: Mapping[str, Sequence[str]]) -> str:
    return " ".join(f"{key}={','.join(values)}" for key, values in only.items())


def interpreter() -> str:
    """Return how this Python is called, so that a line runs in any shell, whatever environment is active."""
    here, folder = Path(sys.executable), Path.cwd()
    return str(here.relative_to(folder) if here.is_relative_to(folder) else here)


def lines(plan: Plan, python: str = "python") -> list[str]:
    """Return a plan as text that a shell can run: one command per line, everything else behind `#`."""
    called = shlex.quote(python)
    text = [f"{called} {one.command.partition(' ')[2]}  # {_about(one)}" for one in plan.runs]
    bases = Counter(one.estimate.basis for one in plan.runs)
    text += [f"# hours are of: {plan.device}; selection, training and evaluation, one run at a time"]
    text += [f"#   {count:>5} runs from {basis}" for basis, count in bases.most_common()]
    return text + [f"# {line}" for line in (*plan.refused, *totals(plan))]


def totals(plan: Plan) -> list[str]:
    """Return what tables take as lines: a heading, a line per table, and one of all."""
    text = [
        f"{'table':<9} {'runs':>5} {'done':>5} {'to run':>6} {'hours':>9} {'peak GiB':>9}  on {plan.device}"
    ]
    for total in plan.totals:
        unknown = f"  and {total.unknown} runs of unknown length" if total.unknown else ""
        text.append(
            f"{total.name:<9} {total.runs:>5} {total.done:>5} {total.left:>6} "
            f"{total.seconds / 3600:>9.2f} {total.memory_bytes / 2**30:>9.1f}{unknown}"
        )
    return text


def _about(one: PlannedRun) -> str:
    seconds, memory = one.estimate.seconds, one.estimate.memory_bytes
    length = "unknown length" if seconds is None else duration(seconds)
    peak = "" if memory is None else f", {memory / 2**30:.1f} GiB"
    return f"{length}{peak}; {one.state}; {' '.join(one.tables)}; from {one.estimate.basis}"


def duration(seconds: float) -> str:
    """Return a duration in the unit that fits: 12 s, 3.4 min, 5.6 h."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
