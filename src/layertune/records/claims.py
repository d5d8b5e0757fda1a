"""Claims: of several processes that want a run one trains it, the others wait for the record or return."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from layertune.config.locks import ends_at_this_machine, locked
from layertune.config.schema import RunConfig
from layertune.errors import RunClaimed, RunFailed
from layertune.records.record import Record
from layertune.records.store import Store

log = logging.getLogger(__name__)

_sweep_began = ContextVar[float | None]("_sweep_began", default=None)


@dataclass(frozen=True)
class Turn:
    """A run whose turn has come.

    Attributes:
        since: when the command began that asks for it (POSIX time); what another process has tried since is
            not tried again.
    """

    run: RunConfig
    store: Store
    since: float

    @property
    def lock(self) -> Path:
        """The file that the process holds which trains the run."""
        return self.run.cache_dir.parent / "locks" / f"{self.run.run_id}.lock"

    def is_free(self) -> bool:
        """Whether no process is training the run now."""
        with locked(self.lock, wait=False) as held:
            return held is not False

    def answer(self) -> Record | None:
        """Return the finished record that answers the request; None where the run is to be trained.

        Raises:
            RecordError: there is a file and it is not a complete record.
            RunFailed: another process has tried since, and its record says why it failed.
        """
        path = self.store.path(self.run)
        is_new = path.is_file() and path.stat().st_mtime >= self.since
        if self.run.force and not is_new:
            return None
        record = self.store.read(self.run)
        state = self.store.status(self.run)
        if is_new and record is not None and state in ("failed", "oom"):
            reason = (record.error or "").strip().rpartition("\n")[2]
            raise RunFailed(f"{self.run.run_id}: {state} in another process: {reason}")
        return record if state == "done" else None


@contextmanager
def in_a_sweep(began: float) -> Iterator[None]:
    """Let `claimed` raise RunClaimed within the block instead of waiting.

    Args:
        began: POSIX time at which the sweep began.
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
    began = _sweep_began.get()
    turn = Turn(run, store, time.time() if began is None else began)
    if (done := turn.answer()) is not None:
        yield done
        return
    store.require_writable(run)
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
                turn.lock.parent.parent,
                run.run_id,
            )
        yield turn.answer()
