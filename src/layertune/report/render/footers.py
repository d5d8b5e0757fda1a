"""What stands below a table: coverage, settings, seeds, data, device, commits, and how to fill the gaps."""

from __future__ import annotations

from collections.abc import Iterable

from layertune.records.record import OFFICIAL, Record
from layertune.report.render.sheet import Footer
from layertune.report.request import Request
from layertune.report.spec import TableSpec
from layertune.report.values import MARKS, STATES, ReadOut, TableValues

READ_OUTS: dict[ReadOut, str] = {
    "last": "last: metrics after the last epoch, which is fixed in advance",
    "best": "best: metrics of the epoch that is best on the evaluation split, as in the paper's own code",
}


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
    return " ".join(["python run.py -m", f"hydra/sweeper=table table={spec.name}", *request.choices(spec)])


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
