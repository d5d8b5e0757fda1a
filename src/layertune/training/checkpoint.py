"""Exact resume of a run: trained weights, optimiser, schedule, random state and progress in one file.

A checkpoint is written whole or not at all and removed when the run is done. On SIGTERM or Ctrl-C a run with
`checkpoint.every_steps` saves its state at the end of the step and stops; a run without it stops at once.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from layertune.config import ConfigError, RunConfig
from layertune.config.files import write_atomic
from layertune.records.store import versions_of

log = logging.getLogger(__name__)


class Interruption(KeyboardInterrupt):
    """The run was asked to stop and can be resumed by the same command; like Ctrl-C it ends a whole sweep."""


class CheckpointError(ConfigError):
    """A checkpoint that cannot be read; nothing has been computed yet."""


class Checkpoint:
    """The checkpoint of one run, which names the file and says how often it is written."""

    def __init__(self, run: RunConfig) -> None:
        self.run = run
        self.every = run.checkpoint.every_steps
        self.path = run.cache_dir.parent / "checkpoints" / f"{run.run_id}.pt"
        self._stop_asked = False

    def due(self, step: int) -> bool:
        """Whether the state is saved after this step."""
        return self.every is not None and (self._stop_asked or step % self.every == 0)

    def save(self, progress: dict[str, Any]) -> None:
        """Write the state of the run and of all random generators.

        Raises:
            Interruption: the run was asked to stop; the state is on disk.
        """
        state = {
            "versions": dataclasses.asdict(versions_of(self.run)),
            "progress": progress,
            "random": {
                "python": random.getstate(),
                "numpy": np.random.get_state(),
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            },
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(self.path, buffer.getvalue())
        if self._stop_asked:
            raise Interruption(f"stopped after a step; the same command goes on from {self.path}")

    def resume(self, take_up: Callable[[dict[str, Any]], None]) -> None:
        """Hand what was saved to `take_up`, if there is a state of the versions in force.

        Raises:
            CheckpointError: the file is damaged, or holds the state of another model.
        """
        if self.every is None or not self.path.is_file():
            return
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=False)  # our own file
            if state["versions"] != dataclasses.asdict(versions_of(self.run)):
                log.warning("%s is of older versions: the run starts anew", self.path)
                return
            take_up(state["progress"])
            _restore_random(state["random"])
        except Exception as error:  # a damaged pickle raises nearly anything
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise CheckpointError(
                f"the checkpoint {self.path} cannot be read ({reason}): delete it, and the run starts anew."
            ) from error
        log.info("resuming from %s", self.path)

    def remove(self) -> None:
        """Delete the file: the run is done."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Turn SIGTERM and Ctrl-C into a stop at the end of the step; at once, where nothing can be saved."""
        if self.every is None:
            with stopping_at_once():
                yield
            return
        with _on_stop_signals(self._ask_to_stop) as listening:
            if not listening:
                log.warning("not in the main thread: this run cannot stop cleanly on a signal")
            yield

    def _ask_to_stop(self, *_: object) -> None:
        self._stop_asked = True


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C raise KeyboardInterrupt, so that what is going on can say it was stopped."""
    with _on_stop_signals(_stop_now):
        yield


@contextmanager
def _on_stop_signals(handler: Callable[..., None]) -> Iterator[bool]:
    """Handle SIGTERM and Ctrl-C; yield whether that is possible: it is in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield False
        return
    previous = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield True
    finally:
        for number, former in previous.items():
            signal.signal(number, former)


def _restore_random(kept: dict[str, Any]) -> None:
    random.setstate(kept["python"])
    np.random.set_state(kept["numpy"])
    torch.set_rng_state(kept["torch"])
    if kept["cuda"]:
        torch.cuda.set_rng_state_all(kept["cuda"])


def _stop_now(*_: object) -> None:
    raise KeyboardInterrupt("asked to stop")
