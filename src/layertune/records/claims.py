"""Claims: of several processes that want a run one trains it, the others wait for the record or return."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from layertune.config import RunConfig
from layertune.config.files import lock_of
from layertune.config.kept import keeps_model_of
from layertune.config.locks import ends_at_this_machine, locked
from layertune.errors import RunClaimed, RunFailed
from layertune.records.record import Record
from layertune.records.store import Store

log = logging.getLogger(__name__)

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
