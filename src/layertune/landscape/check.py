"""The independent check of a landscape: drawn rows are trained again, each by a command of its own."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from layertune.errors import ConfigError
from layertune.landscape.rows import Row, read_rows
from layertune.landscape.sweep import LandscapeRun, wanted
from layertune.records.record import Record
from layertune.records.store import Store, read_folders


def drawn(words: Iterable[str], number: int, seed: int = 0) -> list[tuple[LandscapeRun, Row]]:
    """Draw rows of landscapes, each with the run that makes it.

    Args:
        words: those that the landscapes were filled with.
        number: of rows; all where there are fewer.
        seed: of the draw.

    Raises:
        ConfigError: a word is wrong, or no row is there.
    """
    there = []
    for path, runs in wanted(words).items():
        rows = {(row.layers, row.seed): row for row in read_rows(path)[1]} if path.is_file() else {}
        there += [(one, rows[one.key]) for one in runs if one.key in rows]
    if not there:
        raise ConfigError("no row of such a landscape is there: give the words that it was filled with.")
    return random.Random(seed).sample(there, min(number, len(there)))


def differences(row: Row, record: Record) -> list[str]:
    """Return what is not the same, bit for bit, in a row and in the record of a run of the same set."""
    again = {
        "run_id": record.run_id,
        "score": record.headline("last")[1],
        "best": record.headline("best")[1],
        "loss": record.training.history[-1]["loss"] if record.training else None,
    }
    return [
        f"{name}: {getattr(row, name)} and {new}" for name, new in again.items() if getattr(row, name) != new
    ]


def trained_again(one: LandscapeRun, program: Path, folder: Path) -> Record:
    """Train a set anew by `run.py`, in a process, a store and a cache of its own; return its record.

    Raises:
        ConfigError: it left no finished record.
    """
    store = Store(folder / "results", folder / "outputs")
    places = [f"results_dir={folder / 'results'}", f"outputs_dir={folder / 'outputs'}"]
    done = subprocess.run(
        [sys.executable, str(program), *one.overrides, *places], capture_output=True, text=True, check=False
    )
    records = read_folders(*store.folders)[0]
    found = [record for record in records.values() if record.run_id == one.run.run_id]
    if done.returncode or not found:
        raise ConfigError(f"{' '.join(one.overrides)} ended with {done.returncode}: {done.stderr[-300:]}")
    return found[0]


def check(words: Iterable[str], number: int, program: Path, folder: Path) -> Iterator[tuple[Row, list[str]]]:
    """Train drawn rows again, one after another; yield each with what differs."""
    for place, (one, row) in enumerate(drawn(words, number)):
        yield row, differences(row, trained_again(one, program, folder / str(place)))
