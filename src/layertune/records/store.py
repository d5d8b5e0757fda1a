"""The store: records on disk, found by the run that asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal

from layertune.config.compose import group_file
from layertune.config.files import require_writable
from layertune.config.schema import RunConfig
from layertune.records.record import SCHEMA, Record, SpecRecord, VersionsRecord, read_record

State = Literal["done", "failed", "oom", "interrupted", "stale", "missing"]


def versions_of(run: RunConfig) -> VersionsRecord:
    """Return the hand-raised versions in force for a run."""
    trained = run.train.version if run.stage == "run" else None
    return VersionsRecord(SCHEMA, run.model.version, run.task.version, run.method.version, trained)


def is_stale(versions: VersionsRecord, spec: SpecRecord, trained: bool = True) -> bool:
    """Whether a record is of other versions than those in force for what it names.

    Args:
        versions: of the record.
        spec: of the record.
        trained: False asks of what was known before training, such as layer scores.
    """
    groups = {"model": spec.model, "task": spec.task, "method": spec.method}
    if trained and spec.stage == "run":
        groups["train"] = spec.train
    in_force = {group: _version(group, name) for group, name in groups.items()} | {"schema": SCHEMA}
    return any(getattr(versions, group) != version for group, version in in_force.items())


@cache
def _version(group: str, name: str) -> int:
    """Return the version in a group's file, 0 where there is no such file any more."""
    file = group_file(group, name)
    return int(file.get("version", 1)) if file else 0


class Store:
    """All records below one results and one outputs folder.

    Args:
        results_dir: tracked records lie in `<results_dir>/runs`.
        outputs_dir: scratch records lie in `<outputs_dir>/records`.
    """

    def __init__(self, results_dir: str | Path = "results", outputs_dir: str | Path = "outputs") -> None:
        self.folders = (Path(results_dir) / "runs", Path(outputs_dir) / "records")

    def path(self, run: RunConfig) -> Path:
        """Return where the record of a run belongs."""
        tracked, scratch = self.folders
        return (tracked if run.protocol.tracked and run.stage == "run" else scratch) / f"{run.run_id}.json"

    def require_writable(self, run: RunConfig) -> None:
        """Try to write where the record of a run belongs and where its scratch does, before hours of work.

        Raises:
            ConfigError: it is not possible.
        """
        for folder in (self.path(run).parent, run.cache_dir):
            require_writable(folder)

    def read(self, run: RunConfig) -> Record | None:
        """Return the record of a run, finished or not, or None.

        Raises:
            RecordError: there is a file and it is not a complete record.
        """
        path = self.path(run)
        return read_record(path) if path.is_file() else None

    def find(self, run: RunConfig) -> Record | None:
        """Return the finished, current record of a run, or None."""
        record = self.read(run)
        return record if record is not None and self._state(record, run) == "done" else None

    def status(self, run: RunConfig) -> State:
        """Say how a run stands: done, failed, oom, interrupted, stale (older versions) or missing."""
        record = self.read(run)
        return "missing" if record is None else self._state(record, run)

    def save(self, record: Record, run: RunConfig) -> Path:
        """Write the record of a run, atomically; return its path."""
        return record.write(self.path(run))

    def records(self) -> Iterator[tuple[Path, Record]]:
        """Read all records, in order of their file names."""
        for folder in self.folders:
            for path in sorted(folder.glob("*.json")):
                yield path, read_record(path)

    @staticmethod
    def _state(record: Record, run: RunConfig) -> State:
        return "stale" if record.versions != versions_of(run) else record.status
