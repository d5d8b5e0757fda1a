"""Real processes that start where this one stands, and what they said."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event

FORK = multiprocessing.get_context("fork")


@contextmanager
def others_that_hold() -> Iterator[Callable[[Callable[[Event], object]], BaseProcess]]:
    """Yield a function that has another process call one, with an event, and comes back when that is set.

    Whatever still runs at the end of the block is killed.
    """
    processes: list[BaseProcess] = []

    def start(work: Callable[[Event], object]) -> BaseProcess:
        held = FORK.Event()
        processes.append(FORK.Process(target=work, args=(held,)))
        processes[-1].start()
        assert held.wait(10)
        return processes[-1]

    try:
        yield start
    finally:
        for process in processes:
            process.kill()
            process.join()


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
