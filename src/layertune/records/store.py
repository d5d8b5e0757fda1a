"""The store: records on disk, found by the run that asks for them; of several processes that want a run one
trains it, and the others wait for its record or return.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from layertune.config import RunConfig
from layertune.config.files import ends_at_this_machine, lock_of, locked, require_writable
from layertune.config.groups import cached_by_folders, group_file
from layertune.config.kept import keeps_model_of
from layertune.errors import ConfigError, RecordError, RunClaimed, RunFailed, one_line
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


def read_folders(*folders: str | Path, aloud: bool = True) -> tuple[dict[Path, Record], dict[Path, str]]:
    """Read all records in some folders, in the order of folders and names; see `read_files`."""
    return read_files((path for folder in folders for path in sorted(Path(folder).glob("*.json"))), aloud)


def read_files(paths: Iterable[Path], aloud: bool = True) -> tuple[dict[Path, Record], dict[Path, str]]:
    """Read records; a file that is none is said on the log, and takes nothing with it.

    Args:
        paths: their files.
        aloud: False where the log has said it before.

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
    for path, reason in damaged.items() if aloud else ():
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


_sweep_began = ContextVar[Mapping[str, int] | None]("_sweep_began", default=None)


@dataclass(frozen=True)
class Turn:
    """A run whose turn has come.

    Attributes:
        before: no record was written later when the command began that asks for it (nanoseconds, by the clock
            of the file system, which all machines that share it have in common); what another process has
            tried since is not tried again.
    """

    run: RunConfig
    store: Store
    before: int

    @property
    def lock(self) -> Path:
        """The file that the process holds which trains the run: whoever sees the record sees it too."""
        return lock_of(self.store.path(self.run))

    def is_free(self) -> bool:
        """Whether no process is training the run now."""
        with locked(self.lock, wait=False) as held:
            return held is not False

    def answer(self) -> Record | None:
        """Return the finished record that answers the request; None where the run is to be trained.

        A record alone does not answer a request for a model: weights that were not kept are trained again.

        Raises:
            RecordError: there is a file and it is not a complete record.
            RunFailed: another process has tried since, and its record says why it failed.
        """
        path = self.store.path(self.run)
        is_new = _written(path) > self.before
        if self.run.force and not is_new:
            return None
        record = self.store.read(self.run)
        state = self.store.status(self.run)
        if is_new and record is not None and state in ("failed", "oom"):
            raise RunFailed(f"{self.run.run_id}: {state} in another process: {record.last_line}")
        kept = self.run.save is None or keeps_model_of(self.run)
        return record if state == "done" and kept else None


def _written(path: Path) -> int:
    """Return when a file was written by the clock of its file system, -1 where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else -1


def last_written(store: Store) -> dict[str, int]:
    """Return when the last record was written in each folder of a store."""
    return {
        str(folder): max((_written(path) for path in folder.glob("*.json")), default=-1)
        for folder in store.folders
    }


@contextmanager
def in_a_sweep(began: Mapping[str, int]) -> Iterator[None]:
    """Let `claimed` raise RunClaimed within the block instead of waiting.

    Args:
        began: `last_written` when the sweep began.
    """
    token = _sweep_began.set(began)
    try:
        yield
    finally:
        _sweep_began.reset(token)


@contextmanager
def claimed(run: RunConfig, store: Store) -> Iterator[Record | None]:
    """Hold a run for the length of the block, so that no other process trains it meanwhile.

    Yields:
        The finished record that answers the request, or None: the run is ours to train.

    Raises:
        ConfigError: nothing can be written where its record or its lock belongs.
        RunFailed: another process tried it while this one waited, and failed.
        RunClaimed: another process is training it, and this is a job `in_a_sweep`.
    """
    began, path = _sweep_began.get(), store.path(run)
    turn = Turn(run, store, (began or {}).get(str(path.parent), _written(path)))
    if (done := turn.answer()) is not None:
        yield done
        return
    store.require_writable(run)
    _remove_abandoned(path.parent)
    with ExitStack() as stack:
        held = stack.enter_context(locked(turn.lock, wait=False))
        if held is False:
            if began is not None:
                raise RunClaimed(turn)
            log.info("%s: another process is training it; this one waits for its record", run.run_id)
            held = stack.enter_context(locked(turn.lock))
        if held is None or ends_at_this_machine(turn.lock.parent):
            log.warning(
                "%s has no locks that hold between machines: see yourself that no two train %s at once",
                turn.lock.parent,
                run.run_id,
            )
        yield turn.answer()


def _remove_abandoned(folder: Path) -> None:
    """Remove the locks of processes that were killed."""
    for lock in folder.glob(lock_of(Path("*.json")).name):
        with locked(lock, wait=False):  # which removes it where nobody holds it
            pass
