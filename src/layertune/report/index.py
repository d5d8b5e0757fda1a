"""All records of a results folder, found by the configuration that asks for them, read fast.

Thousands of files are read with a light check of the fields that tables use; `read_record` is the strict
reading of a single one. A record answers a run only if it is of the same configuration and of the versions in
force; when several do, official data come first, and what cannot be told apart is refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from layertune.config.compose import group_file
from layertune.config.schema import RunConfig
from layertune.records.record import SCHEMA, ChecksRecord
from layertune.records.store import versions_of

OFFICIAL = "official"
RunState = Literal["done", "stale", "oom", "failed", "interrupted", "missing", "refused"]
_SECTIONS = ("spec", "versions", "identity", "env", "data", "model", "selection", "training", "metrics")
_CHECKS = [field.name for field in dataclasses.fields(ChecksRecord) if field.name != "beats_majority"]


@dataclass(frozen=True)
class RunRecord:
    """What tables read of one record; sections are as in the file, {} where the record has none."""

    path: Path
    run_id: str
    status: str
    created_at: str
    error: str | None
    config_sha256: str
    seed: int
    sections: Mapping[str, Mapping[str, Any]]  # without config, history and matrix
    checks: Mapping[str, bool | None]

    @property
    def data_status(self) -> str:
        """Whose rows: official, subset, own-split ..."""
        return str(self.sections["data"].get("status", "unknown"))

    @property
    def fingerprint(self) -> str:
        """Hash of the rows used."""
        return str(self.sections["data"].get("fingerprint_sha256", ""))

    @property
    def is_official(self) -> bool:
        """Whether the rows are those of the official data."""
        return self.data_status == OFFICIAL

    @property
    def weights(self) -> str:
        """Which weights: a hub id at its revision, or the hash of local files."""
        return str(self.sections["model"].get("weights", ""))

    @property
    def device(self) -> str:
        """Name of the device; of a CPU with the number of threads, which decides its speed."""
        env = self.sections["env"]
        count = env.get("num_threads")
        words = f", {count} thread{'' if count == 1 else 's'}"
        threads = words if env.get("device_memory_bytes") is None else ""
        return f"{env.get('device_name', 'unknown')}{threads}"

    @property
    def commit(self) -> str | None:
        """The commit of the code; None outside a checkout."""
        return self.sections["identity"].get("git_commit")

    @property
    def is_dirty(self) -> bool:
        """Whether the code differed from the commit."""
        return bool(self.sections["identity"].get("git_dirty"))

    @property
    def failed_checks(self) -> list[str]:
        """Names of the checks that prove the method's work and are false."""
        return [name for name in _CHECKS if self.checks.get(name) is False]

    @property
    def is_below_majority(self) -> bool:
        """Whether the score is at or below always answering the most frequent class."""
        return self.checks.get("beats_majority") is False

    def metric(self, readout: str, evaluation: str, name: str) -> float | None:
        """Return one metric as recorded (a fraction), None where there is none."""
        value = self._metrics(readout, evaluation).get(name)
        return None if value is None else float(value)

    def reason(self, readout: str, evaluation: str, name: str) -> str | None:
        """Return why a metric is null, where the record says so."""
        value = self._metrics(readout, evaluation).get(f"{name}_reason")
        return None if value is None else str(value)

    def _metrics(self, readout: str, evaluation: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = (self.sections["metrics"].get(readout) or {}).get(evaluation) or {}
        return found


@dataclass(frozen=True)
class Found:
    """How one run stands: the record that answers it, or why none does."""

    state: RunState
    record: RunRecord | None = None  # set when done
    twice: bool = False  # one of several finished records was taken
    notes: tuple[str, ...] = ()


class RecordIndex:
    """Records by the hash of their configuration."""

    def __init__(self, records: Iterable[RunRecord], damaged: Mapping[Path, str] | None = None) -> None:
        self.records = tuple(records)
        self.damaged = dict(damaged or {})  # file -> why it is no record
        self._by_config: dict[str, list[RunRecord]] = {}
        for record in self.records:
            self._by_config.setdefault(record.config_sha256, []).append(record)

    @classmethod
    def read(cls, *folders: str | Path) -> RecordIndex:
        """Read all records in folders such as results/runs; of a run id found twice the first is kept.

        Files that are no complete record are listed in `damaged`.
        """
        records: dict[str, RunRecord] = {}
        damaged: dict[Path, str] = {}
        for folder in folders:
            for path in sorted(Path(folder).glob("*.json")):
                try:
                    record = _read(path)
                except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
                    damaged[path] = f"{type(error).__name__}: {error}"
                else:
                    records.setdefault(record.run_id, record)
        return cls(records.values(), damaged)

    @cached_property
    def by_id(self) -> dict[str, RunRecord]:
        """Records by run id."""
        return {record.run_id: record for record in self.records}

    def of(self, run: RunConfig) -> tuple[RunRecord, ...]:
        """Return all records of the configuration of a run, in order of their run ids."""
        return tuple(sorted(self._by_config.get(run.config_sha256, ()), key=lambda record: record.run_id))

    def find(self, run: RunConfig) -> Found:
        """Say how a run stands; the record is set when a finished one answers it."""
        records = self.of(run)
        in_force = dataclasses.asdict(versions_of(run))
        current = [record for record in records if record.sections["versions"] == in_force]
        if not current:
            return _stale(records) if records else Found("missing")
        finished = [record for record in current if record.status == "done"]
        proven = [record for record in finished if not record.failed_checks]
        if proven:
            return _one_of(proven)
        if finished:
            return Found("refused", notes=tuple(_unproven(record) for record in finished))
        return _unfinished(current)

    def stale(self) -> list[RunRecord]:
        """Return the records whose versions are not those in force, in order of their run ids."""
        found = [record for record in self.records if record.sections["versions"] != _in_force(record)]
        return sorted(found, key=lambda record: record.run_id)


def _read(path: Path) -> RunRecord:
    tree = json.loads(path.read_bytes())
    sections = {name: tree.get(name) or {} for name in _SECTIONS}
    for section, heavy in (("selection", "matrix"), ("training", "history")):
        sections[section].pop(heavy, None)
    return RunRecord(
        path=path,
        run_id=tree["run_id"],
        status=tree["status"],
        created_at=tree["created_at"],
        error=tree["error"],
        config_sha256=sections["identity"]["config_sha256"],
        seed=sections["spec"]["seed"],
        sections=sections,
        checks=tree.get("checks") or {},
    )


def _in_force(record: RunRecord) -> dict[str, int]:
    """Return the versions in force for what a record names; 0 where a group has no such file any more."""
    versions = {"schema": SCHEMA}
    for group in ("model", "task", "method"):
        file = group_file(group, str(record.sections["spec"].get(group)))
        versions[group] = int(file.get("version", 1)) if file else 0
    return versions


def _stale(records: Iterable[RunRecord]) -> Found:
    return Found("stale", notes=tuple(f"{record.run_id} is of older versions" for record in records))


def _unproven(record: RunRecord) -> str:
    return f"{record.run_id} is refused: {', '.join(record.failed_checks)} is false"


def _unfinished(records: list[RunRecord]) -> Found:
    """Name the state of a run that has records, none of them finished."""
    order: tuple[RunState, ...] = ("oom", "failed", "interrupted")
    state: RunState = next((state for state in order if any(r.status == state for r in records)), "failed")
    reason = {"oom": "ran out of memory", "failed": "failed", "interrupted": "was interrupted"}[state]
    notes = []
    for record in records:
        last = (record.error or "").strip().splitlines()[-1:] or [""]
        notes.append(f"{record.run_id} {reason}: {last[0]}".rstrip(": "))
    return Found(state, notes=tuple(notes))


def _one_of(records: list[RunRecord]) -> Found:
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
