"""How a table reads: its values with their states and marks, and what stands below it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from layertune.records.record import OFFICIAL, Record
from layertune.report.render.sheet import Footer, Line
from layertune.report.request import Request
from layertune.report.rounding import as_printed, printed
from layertune.report.spec import TableSpec
from layertune.report.values import MARKS, STATES, CellValue, ReadOut, State, TableValues

MISSING = "—"
HOW_TO_READ = (
    "Ours: mean ± sample standard deviation (n seeds; ± standard error of the evaluation split itself, which "
    "no seed changes: of accuracy and Pearson's r; others need the single outputs)."
)
RANKS = (
    "Bold is best, underlined second best, where at least three quarters of the rows are complete and no "
    "partial cell is ahead; cells with † take no part."
)
READ_OUTS: dict[ReadOut, str] = {
    "last": "last: metrics after the last epoch, which is fixed in advance",
    "best": "best: metrics of the epoch that is best on the evaluation split, as in the paper's own code",
}
OTHER = MARKS["other"]
STATE_TEXT = dict.fromkeys(("done", "partial", "missing"), MISSING) | {"oom": "OOM"}  # others: their names
STATE_MEANING: dict[State, str] = {
    "partial": "·2/3: two of three runs are done; not ranked",
    "absent": "absent: the run is done and did not record this; the notes say why",
    "missing": f"{MISSING} missing: no run has been recorded",
    "stale": "stale: the record is of an older version and is not used",
    "oom": "OOM: the run ran out of memory",
    "failed": "failed: the run ended with an error",
    "refused": "refused: the model cannot do it, or its records cannot be used; the notes say why",
}
MARK_MEANING = {
    "data": "not the official data: the paper's number is of other rows",
    "mixed": "data or weights of several kinds; a column with this sign is not ranked",
    "majority": "a run scored no better than always answering the most frequent class",
    "twice": "several records answer one run; the notes say which is used",
    "other": "the paper's number is of another model or of other data; no difference is taken",
}


def ours(value: CellValue, chosen: str = "", label: str = "") -> Line:
    """Return our number, or the state that stands in its place.

    Args:
        value: what the records say.
        chosen: title of the row that a best was taken from.
        label: which side of a comparison.
    """
    seeds = [str(seed) for seed in value.values]
    one_each = not value.cell.parts and len(seeds) == len(value.run_ids)
    names = seeds if one_each else list(value.run_ids)
    return Line(
        text=_number(value),
        label=label,
        count=_count(value),
        marks=() if value.mean is None else _marks(value),
        state=value.state,
        rank=value.rank,
        detail=chosen,
        runs=tuple(zip(names, value.run_ids, strict=True)),
    )


def paper(value: CellValue, marks: tuple[str, ...] = ()) -> Line | None:
    """Return the paper's number and how far ours is from it; None where the paper prints none."""
    if value.paper is None:
        return None
    number = value.paper
    text = number.printed
    if number.target is not None and number.target != number.value:
        text += f" → {number.target:.{number.decimals}f}"
    if number.std_printed is not None:
        text += f" ± {number.std_printed}"
    return Line(
        text=text, role="paper", delta=difference(value.delta, value.cell.column.decimals), marks=marks
    )


def difference(delta: float | None, decimals: int) -> str:
    """Return a signed difference, "" for None; what rounds to nothing has no sign."""
    if delta is None:
        return ""
    rounded = as_printed(abs(delta), decimals)
    sign = "" if rounded == 0 else "+" if delta > 0 else "−"
    return f"{sign}{rounded:.{decimals}f}"


def listed(items: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def counted(count: int, noun: str) -> str:
    """Return "1 run" or "2,000 runs"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _number(value: CellValue) -> str:
    if value.mean is None:
        return STATE_TEXT.get(value.state, value.state)
    column = value.cell.column
    decimals = column.decimals
    is_count = column.measure != "metric" and value.std == 0  # parameters, layers: the same for every seed
    spread = "" if value.std is None or is_count else f" ± {as_printed(value.std, decimals):.{decimals}f}"
    return f"{as_printed(value.mean, decimals):.{decimals}f}{spread}"


def _marks(value: CellValue) -> tuple[str, ...]:
    """Return the signs behind our number; `*` stands behind the paper's.

    That a score is at the majority class says nothing of a count of parameters or of seconds.
    """
    left_out = ["other"] if value.cell.column.measure == "metric" else ["other", "majority"]
    return tuple(sign for mark, sign in MARKS.items() if mark in value.marks and mark not in left_out)


def _count(value: CellValue) -> str:
    """Say how many: seeds behind a finished number, runs done of those wanted elsewhere."""
    if value.state == "done":
        decimals = value.cell.column.decimals
        split = "" if value.split_error is None else f"; ±{printed(value.split_error, decimals)}"
        return f"({len(value.values)}{split})"
    return f"·{value.n}/{value.wanted}" if value.n else ""


def footers(values: TableValues, request: Request) -> tuple[Footer, ...]:
    """Return the statements below a table, those without content left out."""
    spec = values.spec
    lines = [
        Footer("Coverage", coverage(values)),
        Footer("Read-out", READ_OUTS[values.readout]),
        Footer("Settings", settings(spec)),
        Footer("Seeds", _seeds(values)),
        Footer("Data", _data(values.records)),
        Footer("Device", "; ".join(values.devices)),
        Footer("Code", ", ".join(_short(commit) for commit in values.commits)),
    ]
    if values.missing:
        lines.append(Footer("Fill the gaps", fill_command(spec, request), is_command=True))
    return tuple(line for line in lines if line.text)


def coverage(values: TableValues) -> str:
    """Say how many runs are recorded and how the cells stand."""
    done, wanted = values.coverage
    states = [value.state for value in values.cells.values()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
    return f"{done} of {wanted} runs; {len(states)} cells: {counts}"


def settings(spec: TableSpec) -> str:
    """Name what the runs of a table have in common."""
    model = "" if not spec.paper_model else f"model {spec.model}, "
    own = f", {', '.join(spec.extra)}" if spec.extra else ""
    return f"{model}protocol {spec.protocol}, train {spec.train}, grid {spec.grid}{own}"


def fill_command(spec: TableSpec, request: Request) -> str:
    """Return the command that runs what a table misses, and nothing else."""
    program = shlex.join(["python", "run.py", *request.folder_words, "-m"])
    return " ".join([program, f"hydra/sweeper=table table={spec.name}", *request.choices(spec)])


def _seeds(values: TableValues) -> str:
    wanted = ", ".join(map(str, values.spec.seeds))
    found = ", ".join(map(str, values.seeds))
    return wanted if found == wanted else f"{wanted} wanted; {found or 'none'} recorded"


def _data(records: Iterable[Record]) -> str:
    """Name the tasks by the status of their data; what is not official carries its mark."""
    tasks: dict[str, set[str]] = {}
    for record in records:
        tasks.setdefault(record.data_status, set()).add(record.spec.task)
    order = sorted(tasks, key=lambda status: (status != OFFICIAL, status))
    return "; ".join(
        f"{status}{'' if status == OFFICIAL else ' ' + MARKS['data']}: {', '.join(sorted(tasks[status]))}"
        for status in order
    )


def _short(commit: str) -> str:
    """Return eight digits of a commit, its `+` kept."""
    return commit[:8] + ("+ (with uncommitted changes)" if commit.endswith("+") else "")
