"""The store: records on disk, found by the run that asks for them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from layertune.config import RunConfig
from layertune.config.files import require_writable
from layertune.config.groups import cached_by_folders, group_file
from layertune.errors import ConfigError, RecordError, one_line
from layertune.records.record import SCHEMA, Record, VersionsRecord, read_record

log = logging.getLogger(__name__)

State = Literal["done", "failed", "oom", "interrupted", "stale", "missing"]


def versions_of(run: RunConfig) -> VersionsRecord:
    """Return the hand-raised versions in force for a run."""
    trained = run.train.version if run.stage == "run" else None
    return VersionsRecord(SCHEMA, run.model.version, run.task.version, run.method.version, trained)


def is_stale(record: Record, trained: bool = True) -> bool:
    """Whether a record is of other versions than those in force for what it names.

    What neither `configs/` nor a folder that is looked into holds (a method of one's own) has no version in
    force that could be known here: its record's own counts.

    Args:
        record: of any run.
        trained: False asks of what was known before training, such as layer scores.
    """
    spec = record.spec
    groups = {"model": spec.model, "task": spec.task, "method": spec.method}
    if trained and spec.stage == "run":
        groups["train"] = spec.train
    in_force = {group: _version(group, name) for group, name in groups.items()} | {"schema": SCHEMA}
    return any(version not in (None, getattr(record.versions, group)) for group, version in in_force.items())


@cached_by_folders
def _version(group: str, name: str) -> int | None:
    """Return the version in a group's file, None where there is no such file."""
    file = group_file(group, name)
    return int(file.get("version", 1)) if file else None


def read_folders(*folders: str | Path) -> tuple[dict[Path, Record], dict[Path, str]]:
    """Read all records in some folders, in the order of folders and names; see `read_files`."""
    return read_files(path for folder in folders for path in sorted(Path(folder).glob("*.json")))


def read_files(paths: Iterable[Path]) -> tuple[dict[Path, Record], dict[Path, str]]:
    """Read records; a file that is none is said on the log, and takes nothing with it.

    Returns:
        The records by their files, in the order given; and why every other file is none. Of several files
        with one run id the one that is named after it is the record, else the first.
    """
    records: dict[Path, Record] = {}
    damaged: dict[Path, str] = {}
    for path in paths:
        try:
            records[path] = read_record(path)
        except RecordError as error:
            damaged[path] = error.reason
    files: dict[str, Path] = {}
    for path, record in sorted(records.items(), key=lambda one: one[0].stem != one[1].run_id):
        if (first := files.setdefault(record.run_id, path)) != path:
            damaged[path] = (
                f"is a second file of the run {record.run_id}; {first.parent.name}/{first.name} is used"
            )
    for path, reason in damaged.items():
        log.warning("%s", one_line(f"damaged, not used: {path} {reason}"))
    return {path: record for path, record in records.items() if path not in damaged}, damaged


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
        if self.path(run).is_dir():
            raise ConfigError(f"{self.path(run)} is a folder, where the record belongs: move it away.")
        for folder in (self.path(run).parent, run.cache_dir):
            require_writable(folder)

    def read(self, run: RunConfig) -> Record | None:
        """Return the record of a run, finished or not, or None.

        Raises:
            RecordError: something lies there and it is not a complete record.
        """
        path = self.path(run)
        return read_record(path) if path.exists() else None

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

    @staticmethod
    def _state(record: Record, run: RunConfig) -> State:
        return "stale" if record.versions != versions_of(run) else record.status
