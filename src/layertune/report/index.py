"""The records of a results folder, found by the configuration that asks for them.

A record answers a run only if it is of the same configuration and of the versions in force; when several do,
official data come first, and what cannot be told apart is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from layertune.config import RunConfig
from layertune.errors import one_line
from layertune.records.record import Record
from layertune.records.store import is_stale, read_folders, versions_of

RunState = Literal["done", "stale", "oom", "failed", "interrupted", "missing", "refused"]
_UNFINISHED: dict[RunState, str] = {  # the worst first
    "oom": "ran out of memory",
    "failed": "failed",
    "interrupted": "was interrupted",
}


@dataclass(frozen=True)
class Found:
    """How one run stands: the record that answers it, or why none does."""

    state: RunState
    record: Record | None = None  # set when done
    twice: bool = False  # one of several finished records was taken
    notes: tuple[str, ...] = ()


class RecordIndex:
    """Records by the hash of their configuration."""

    def __init__(self, records: Iterable[Record], damaged: Iterable[str] = ()) -> None:
        self.records = tuple(records)
        self.damaged = tuple(damaged)  # files that are no records and not used: name and why, a line each
        self._by_config: dict[str, list[Record]] = {}
        for record in self.records:
            self._by_config.setdefault(record.identity.config_sha256, []).append(record)

    @classmethod
    def read(cls, *folders: str | Path, aloud: bool = True) -> RecordIndex:
        """Read all records in folders such as results/runs; files that are none are listed in `damaged`."""
        records, damaged = read_folders(*folders, aloud=aloud)
        return cls(records.values(), sorted(one_line(f"{path.name} {why}") for path, why in damaged.items()))

    @cached_property
    def by_id(self) -> dict[str, Record]:
        """Records by run id."""
        return {record.run_id: record for record in self.records}

    def of(self, run: RunConfig) -> tuple[Record, ...]:
        """Return all records of the configuration of a run, in order of their run ids."""
        return tuple(sorted(self._by_config.get(run.config_sha256, ()), key=lambda record: record.run_id))

    def find(self, run: RunConfig) -> Found:
        """Say how a run stands; the record is set when a finished one answers it."""
        records = self.of(run)
        in_force = versions_of(run)
        current = [record for record in records if record.versions == in_force]
        if not records:
            return Found("missing")
        if not current:
            return Found("stale", notes=tuple(f"{record.run_id} is of older versions" for record in records))
        finished = [record for record in current if record.status == "done"]
        proven = [record for record in finished if not record.failed_checks]
        if proven:
            return _one_of(proven)
        if finished:
            why = (f"{one.run_id} is refused: {', '.join(one.failed_checks)} is false" for one in finished)
            return Found("refused", notes=tuple(why))
        statuses = {record.status for record in current}
        state, reason = next(known for known in _UNFINISHED.items() if known[0] in statuses)
        told = (f"{record.run_id} {reason}: {record.last_line}".rstrip(": ") for record in current)
        return Found(state, notes=tuple(told))

    def stale(self, trained: bool = True) -> list[Record]:
        """Return the records whose versions are not those in force, in order of their run ids.

        Args:
            trained: False asks of what was known before training, such as layer scores.
        """
        found = (record for record in self.records if is_stale(record, trained))
        return sorted(found, key=lambda record: record.run_id)


def _one_of(records: list[Record]) -> Found:
    """Choose among finished records of one configuration: official data first, the newest of equals."""
    if len(records) == 1:
        return Found("done", records[0])
    official = [record for record in records if record.is_official]
    candidates = official or records
    ids = " and ".join(record.run_id for record in candidates)
    if not official and len({record.fingerprint for record in candidates}) > 1:
        return Found("refused", notes=(f"{ids} are of different data, none of them official",))
    chosen = max(candidates, key=lambda record: (record.created_at, record.run_id))
    if len(candidates) == 1:
        return Found("done", chosen)
    return Found("done", chosen, twice=True, notes=(f"{ids} answer the same run; {chosen.run_id} is used",))
