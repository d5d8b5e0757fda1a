"""From the records of a cell to what the cell says: state, mean, spread, the paper's number, marks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

from layertune.config.compose import CONFIG_DIR
from layertune.report.cells import DEVICE_BOUND, Cell
from layertune.report.index import Found, RecordIndex, RunRecord, RunState
from layertune.report.measures import MEASURES
from layertune.report.paper import PaperTables, PaperValue, load_paper_tables, paper_value

ReadOut = Literal["last", "best"]
State = Literal["done", "partial", "stale", "oom", "failed", "absent", "missing", "refused"]
Rank = Literal["best", "second"]
# From best to worst: a derived cell has the worst state of its parts.
STATES: tuple[State, ...] = ("done", "partial", "stale", "oom", "failed", "absent", "missing", "refused")
MARKS = {
    "data": "‡",  # rows other than the official data
    "mixed": "§",  # one cell, or one column, with data of several statuses, or with several weights
    "majority": "†",  # a run at or below the majority class
    "twice": "¶",  # several records for one run; the notes say which was used
    "other": "*",  # the paper's number beside it is of another model or of all data: no difference is taken
}


@dataclass(frozen=True)
class CellValue:
    """What one cell says. Numbers are in the printed unit (percent, millions, factors)."""

    cell: Cell
    state: State
    mean: float | None  # None: nothing to print; an average or a best of rows needs all its parts done
    std: float | None  # sample standard deviation (ddof 1) over seeds; None for fewer than two
    n: int  # runs that are done, those of the parts of a derived cell together
    wanted: int  # runs that the cell asks for
    values: Mapping[int, float] = field(default_factory=dict)  # seed -> value
    paper: PaperValue | None = None  # what the paper prints, errata applied
    delta: float | None = None  # mean - paper.value; None where they do not compare
    marks: tuple[str, ...] = ()  # keys of MARKS
    notes: tuple[str, ...] = ()  # sentences; they name run ids
    run_ids: tuple[str, ...] = ()  # of the records used, in order of seeds
    chosen: str | None = None  # best of rows: key of the row it came from
    rank: Rank | None = None  # set by `layertune.report.values`


def aggregate(
    cell: Cell, index: RecordIndex, readout: ReadOut = "last", device: RunRecord | None = None
) -> CellValue:
    """Return what the records say about one cell.

    Args:
        cell: of a table or figure.
        index: the records.
        readout: metrics after the last epoch, or of the epoch that is best on the evaluation split.
        device: a record whose device all others must share where speed is read; None = the first of full
            fine-tuning's, or the cell's own.
    """
    if cell.refusal:
        value = CellValue(
            cell, "refused", None, None, 0, len(cell.seeds), notes=(f"refused: {cell.refusal}",)
        )
    elif cell.how in ("mean", "best"):
        value = _derived(cell, [aggregate(part, index, readout, device) for part in cell.parts])
    elif cell.how == "any":
        value = _first_done(cell, [index.find(run) for run in cell.own_runs()], readout)
    else:
        value = _from_runs(cell, index, readout, device)
    return _beside_the_paper(value)


def worst(states: Iterable[State]) -> State:
    """Return the worst of some states."""
    return max(states, key=STATES.index)


def _from_runs(cell: Cell, index: RecordIndex, readout: ReadOut, device: RunRecord | None) -> CellValue:
    """Read the measure of each seed's record; for a speed-up divide full fine-tuning's by it."""
    found = {run.seed: index.find(run) for run in cell.own_runs()}
    used = {seed: one.record for seed, one in found.items() if one.record is not None}
    notes = [note for one in found.values() for note in one.notes]
    notes += _mixed_weights(used.values())
    refusals = _mixed_data(used.values())
    base: dict[int, RunRecord] = {}
    if cell.column.measure in DEVICE_BOUND:
        reference = cell.reference or cell
        base = {run.seed: one for run in reference.own_runs() if (one := index.find(run).record) is not None}
        refusals += _mixed_devices(used, device or next(iter([*base.values(), *used.values()]), None))
    measure, scale = MEASURES[cell.column.measure], cell.column.scale
    values: dict[int, float] = {}
    lacks = False  # a finished run did not record what the column reads
    for seed, record in used.items():
        value = measure(record, cell.column, readout)
        if value is None:
            lacks = True
            notes.append(_absent(record, cell, readout))
        elif cell.column.measure == "speedup":
            full = MEASURES["speedup"](base[seed], cell.column, readout) if seed in base else None
            if full is None:
                notes.append(f"{record.run_id}: no step of full fine-tuning with seed {seed} to compare with")
            else:
                values[seed] = full / value
        else:
            values[seed] = value * scale
    if refusals:
        values = {}
    records = [used[seed] for seed in values]
    return CellValue(
        cell=cell,
        state="refused" if refusals else _state(len(values), found.values(), lacks),
        mean=statistics.fmean(values.values()) if values else None,
        std=statistics.stdev(values.values()) if len(values) > 1 else None,
        n=len(values),
        wanted=len(found),
        values=values,
        marks=_marks(records, any(found[seed].twice for seed in values)),
        notes=tuple(dict.fromkeys([*refusals, *notes])),
        run_ids=tuple(record.run_id for record in records),
    )


def _state(done: int, found: Iterable[Found], lacks: bool) -> State:
    """Return done or partial where there is a number, else the worst that befell a run."""
    found = list(found)
    if done:
        return "done" if done == len(found) else "partial"
    told: dict[RunState, State] = {"stale": "stale", "oom": "oom", "failed": "failed", "refused": "refused"}
    states = [told[one.state] for one in found if one.state in told]
    if states:
        return worst(states)
    # A finished run counts as run, whatever it lacks; what was interrupted is still to be run.
    return "absent" if lacks else "missing"


def _first_done(cell: Cell, found: Sequence[Found], readout: ReadOut) -> CellValue:
    """Take the first run that is done; one is enough."""
    measure = MEASURES[cell.column.measure]
    for one in found:
        if one.record is not None and (value := measure(one.record, cell.column, readout)) is not None:
            return CellValue(
                cell=cell,
                state="done",
                mean=value * cell.column.scale,
                std=None,
                n=1,
                wanted=1,
                values={one.record.seed: value * cell.column.scale},
                marks=_marks([one.record], one.twice),
                notes=one.notes,
                run_ids=(one.record.run_id,),
            )
    lacks = any(one.record is not None for one in found)
    return CellValue(cell, _state(0, found[:1], lacks), None, None, 0, 1, notes=found[0].notes)


def _derived(cell: Cell, parts: Sequence[CellValue]) -> CellValue:
    """Average cells, or take the best of them: only when all of them are done.

    The spread of an average is that of its value per seed, not the mean of the spreads.
    """
    state = worst(part.state for part in parts)
    chosen: str | None = None
    mean = std = None
    values: Mapping[int, float] = {}
    behind = parts  # whose marks the number carries
    if state == "done" and cell.how == "best":
        sign = -1.0 if cell.column.higher_is_better is False else 1.0
        winner = max(parts, key=lambda part: sign * _mean(part))
        chosen, mean, std, values = winner.cell.row.key, winner.mean, winner.std, winner.values
        behind = [winner]
    elif state == "done":
        seeds = [seed for seed in parts[0].values if all(seed in part.values for part in parts)]
        values = {seed: statistics.fmean(part.values[seed] for part in parts) for seed in seeds}
        mean = statistics.fmean(_mean(part) for part in parts)
        std = statistics.stdev(values.values()) if len(values) > 1 else None
    return CellValue(
        cell=cell,
        state=state,
        mean=mean,
        std=std,
        n=sum(part.n for part in parts),
        wanted=sum(part.wanted for part in parts),
        values=values,
        marks=tuple(mark for mark in MARKS if any(mark in part.marks for part in behind)),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        run_ids=tuple(dict.fromkeys(run_id for part in parts for run_id in part.run_ids)),
        chosen=chosen,
    )


def _mean(value: CellValue) -> float:
    assert value.mean is not None, f"{value.cell.key} is done and has no number"
    return value.mean


def _absent(record: RunRecord, cell: Cell, readout: ReadOut) -> str:
    """Say that a finished record lacks what the column reads, and why where it knows."""
    column = cell.column
    reason = record.reason(readout, column.evaluation, column.metric) if column.measure == "metric" else None
    return f"{record.run_id} does not record {column.metric}" + (f": {reason}" if reason else "")


def _mixed_data(records: Iterable[RunRecord]) -> list[str]:
    """Refuse seeds of different data, none of them official: their mean would mean nothing."""
    others = {record.fingerprint: record.run_id for record in records if not record.is_official}
    if len(others) < 2:
        return []
    return [
        f"refused: {' and '.join(list(others.values())[:2])} are of different data, none of them official"
    ]


def _mixed_weights(records: Iterable[RunRecord]) -> list[str]:
    """Note local weights that differ between seeds (a hub id and a local copy of it cannot be told apart)."""
    local = {record.weights: record.run_id for record in records if record.weights.startswith("sha256:")}
    return [f"{' and '.join(local.values())} are of different weights"] if len(local) > 1 else []


def _mixed_devices(used: Mapping[int, RunRecord], expected: RunRecord | None) -> list[str]:
    """Refuse records of another device than the one that speed is compared on."""
    for record in used.values():
        if expected is not None and record.device != expected.device:
            return [
                f"refused: {record.run_id} ran on {record.device}, {expected.run_id} on {expected.device}; "
                "speed and memory are compared within one device"
            ]
    return []


def _marks(records: Sequence[RunRecord], twice: bool) -> tuple[str, ...]:
    """Return the marks that the records of a cell earn."""
    earned = {
        "data": any(not record.is_official for record in records),
        "mixed": len({record.data_status for record in records}) > 1 or bool(_mixed_weights(records)),
        "majority": any(record.is_below_majority for record in records),
        "twice": twice,
    }
    return tuple(mark for mark, is_earned in earned.items() if is_earned)


def _beside_the_paper(value: CellValue) -> CellValue:
    """Add the paper's number, and the difference where both measure the same."""
    key = value.cell.paper_key
    paper = None if key is None else paper_value(_paper(), *key)
    if paper is None:
        return value
    if not value.cell.comparable:
        return replace(value, paper=paper, marks=(*value.marks, "other"))
    known = value.mean is not None and paper.value is not None
    delta = value.mean - paper.value if known else None  # type: ignore[operator]
    return replace(value, paper=paper, delta=delta)


@cache
def _paper() -> PaperTables:
    return load_paper_tables(CONFIG_DIR.parent / "results" / "paper")
