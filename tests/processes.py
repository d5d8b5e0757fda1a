"""Real processes that start where this one stands, and what they said."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from programs import Ended, program

FORK = multiprocessing.get_context("fork")
MODELS = [f"transformers.models.{name}.modeling_{name}" for name in ("bert", "gpt2")]
HEAVY = ["layertune.pipeline", "hydra.main", "accelerate", "peft", *MODELS]


def import_what_runs_need() -> None:
    """Import what takes seconds, once for all processes that are forked: what one of them imports is lost."""
    for module in HEAVY:
        importlib.import_module(module)


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


def forked(path: Path, words: Sequence[str], folder: Path, **environment: str) -> Ended:
    """Run a file as `python <path> <words>` does, in a process of its own that starts where this one stands.

    It need not import torch and transformers again, which takes longer than a tiny run.
    """
    import_what_runs_need()

    def work() -> None:
        with pytest.MonkeyPatch.context() as patch:
            sys.exit(program(path, words, patch))

    return in_a_process(work, folder, **environment)


def in_a_process(work: Callable[[], object], folder: Path, **environment: str) -> Ended:
    """Call a function in a forked process, in a folder; return how it ended and what it printed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:

        def child() -> None:
            os.chdir(folder)
            os.environ.update(environment)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            work()

        process = FORK.Process(target=child)
        process.start()
        process.join()
        return Ended(process.exitcode, *(stream.seek(0) or stream.read() for stream in (out, err)))
