"""Records that none of the ten tables shows: other methods, other settings, of a model that has no tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from layertune.records.record import Record
from layertune.records.store import is_stale
from layertune.report.request import NO_SETTINGS, Request
from layertune.report.rounding import printed
from layertune.report.values import ReadOut

_SAID = ("model", "task", "method", "seed", "protocol", "train", "grid", "stage", "tracking", "force")


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
    """Return the command whose tables would show most of some records; "" where the request asks for it.

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
    """Return the request whose tables can show a record; paper and timing are the tables own protocols."""
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
