"""`python run.py ...` in this process: as the command line has it, without a second interpreter."""

from __future__ import annotations

import logging
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Ended(NamedTuple):
    """How a program ended and what it printed."""

    returncode: Any
    stdout: str
    stderr: str


def program(path: Path, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a file as `python <path> <arguments>` does; return its exit code."""
    monkeypatch.setattr(sys, "argv", [path.name, *arguments])
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


@contextmanager
def own_logging() -> Iterator[None]:
    """Put the handlers of all loggers back: Hydra and Optuna set their own, on streams that a test closes."""
    handlers, level = logging.root.handlers[:], logging.root.level
    known = {name: logger.handlers[:] for name, logger in _loggers()}
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    for name, logger in _loggers():
        logger.handlers[:] = known.get(name, [])


def _loggers() -> list[tuple[str, logging.Logger]]:
    found = logging.root.manager.loggerDict.items()
    return [(name, logger) for name, logger in found if isinstance(logger, logging.Logger)]
