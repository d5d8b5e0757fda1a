"""Real processes that start where this one stands, and what they said."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence

FORK = multiprocessing.get_context("fork")


def at_once(functions: Sequence[Callable[[], object]], seconds: float = 60) -> list[int | None]:
    """Call each function in a process of its own, all at once; return their exit codes, None if not over."""
    workers = [FORK.Process(target=function) for function in functions]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(seconds)
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    return codes
