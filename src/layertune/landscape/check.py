"""The independent check of a landscape: drawn rows are trained again, each by a command of its own."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from layertune.config import RunConfig
from layertune.errors import ConfigError
from layertune.landscape.rows import Row, key_of, rows_at
from layertune.landscape.sweep import wanted
from layertune.records.record import Record
from layertune.records.store import read_folders
from layertune.records.writer import git_state


def drawn(words: Iterable[str], number: int, seed: int = 0) -> list[tuple[RunConfig, Row]]:
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
        rows = rows_at(path)
        there += [(run, rows[key_of(run)]) for run in runs if key_of(run) in rows]
    if not there:
        raise ConfigError("no row of such a landscape is there: give the words that it was filled with.")
    return random.Random(seed).sample(there, min(number, len(there)))


def compared(row: Row, record: Record) -> dict[str, tuple[object, object]]:
    """Return what a row says beside what the record of a run of the same set says, by name."""
    loss = record.training.history[-1]["loss"] if record.training else None
    again = {
        "run": record.run_id,
        "score": record.headline("last")[1],
        "best": record.headline("best")[1],
        "loss": loss,
        "checks": record.checks,
    }
    said = {"run": row.run_id, "score": row.score, "best": row.best, "loss": row.loss, "checks": row.checks}
    return {name: (said[name], again[name]) for name in again}


def trained_again(run: RunConfig, program: Path, folder: Path) -> Record:
    """Train a set anew by `run.py`, in a process, a store and a cache of its own; return its record.

    What a folder holds from before, of the same commit, is not trained once more.

    Raises:
        ConfigError: it left no finished record.
    """
    own = folder / str(git_state()[0])[:8] / run.run_id
    places = [f"results_dir={own / 'results'}", f"outputs_dir={own / 'outputs'}"]
    done = subprocess.run(
        [sys.executable, str(program), *run.overrides, *places], capture_output=True, text=True, check=False
    )
    record = next(iter(read_folders(own / "outputs" / "records")[0].values()), None)
    if done.returncode or record is None:
        raise ConfigError(f"{' '.join(run.overrides)} ended with {done.returncode}: {done.stderr[-300:]}")
    return record
