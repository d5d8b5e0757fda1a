"""Being asked to stop: what SIGTERM and Ctrl-C do to a command and to its runs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from layertune.errors import Interruption


@contextmanager
def stopping_at_once(resumable: bool) -> Iterator[None]:
    """Let SIGTERM and Ctrl-C raise at once, so that what is going on can say it was stopped.

    Args:
        resumable: whether the same command goes on from here (Interruption), or loses work and starts over
            (KeyboardInterrupt).
    """

    def stop(*_: object) -> None:
        if resumable:
            raise Interruption("asked to stop; the same command goes on")
        raise KeyboardInterrupt("asked to stop")

    with on_stop_signals(stop):
        yield


@contextmanager
def on_stop_signals(handler: Callable[..., None]) -> Iterator[bool]:
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
