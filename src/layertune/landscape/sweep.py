"""Which sets of layers a landscape still lacks, how a finished run becomes a row, and how rows are tried."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

from layertune.config import RunConfig
from layertune.config.checks import check_run
from layertune.config.compose import plain_run
from layertune.errors import ConfigError
from layertune.landscape.rows import Row, add_row, entries_of, key_of, path_of, rows_at
from layertune.records.record import Record
from layertune.records.store import Store, read_folders
from layertune.records.writer import git_state

LISTS = ("task", "seed")  # words that take several values
# The study's protocol (results/README.md), for what no word says; its rate is the recipe's of `random_k`.
PROTOCOL = {
    "protocol": "study",
    "train": "fast",
    "grid": "tuned",
    "study.eval_examples": "500",
    "train.epochs": "3",
    "train.batch_size": "16",
    "train.precision": "bf16",
    "tracking": "disabled",
    "seed": "0",
}
# Each run's own record is scratch: what is kept of it is a row.
SCRATCH = ("method=layers", "protocol.tracked=false")


def every_set(num_layers: int, k: int | None) -> Iterator[tuple[int, ...]]:
    """Yield every set of k layers, numbered from 1; with k = None, of every size below all."""
    sizes = range(1, num_layers) if k is None else [k]
    return chain.from_iterable(combinations(range(1, num_layers + 1), size) for size in sizes)


def wanted(words: Iterable[str]) -> dict[Path, list[RunConfig]]:
    """Return every run of the landscapes asked for by their files, lowest layer first.

    Args:
        words: `key=value`. `model` and `k` (a number, or all) are needed, `task` and `seed` take lists; what
            is not said of the protocol is that of the study (PROTOCOL).

    Raises:
        ConfigError: a word is wrong, or a run cannot be met here.
    """
    given = _read(words)
    k = _size(given.pop("k"))
    tasks, seeds = (given.pop(key).split(",") for key in LISTS)
    if len(set(seeds)) < len(seeds) or len(set(tasks)) < len(tasks):
        raise ConfigError("task and seed list different values.")
    found = {}
    for task in tasks:
        shared = [*(f"{key}={value}" for key, value in given.items()), f"task={task}"]
        first = _run([*shared, "seed=0"], (1,))
        check_run(first)  # what cannot be met here ends here
        num_layers = first.model.num_layers
        if k is not None and not 1 <= k < num_layers:
            raise ConfigError(
                f"k={k} is out of range: {first.model.name} has {num_layers} layers, so k is between 1 and "
                f"{num_layers - 1}, or all."
            )
        pairs = sorted(product(every_set(num_layers, k), seeds), key=lambda one: one[0][0])
        found[path_of(first)] = [_run([*shared, f"seed={seed}"], layers) for layers, seed in pairs]
    return found


def lacking(words: Iterable[str]) -> tuple[list[RunConfig], list[str]]:
    """Return what is still to be run, and a line on each landscape.

    Sets of one lowest layer, which share its cache, come one after another.

    Raises:
        ConfigError: as `wanted`.
    """
    missing: list[RunConfig] = []
    lines: list[str] = []
    for path, runs in wanted(words).items():
        there = rows_at(path)
        missing += (new := [run for run in runs if run.force or key_of(run) not in there])
        lines.append(f"{path}: {len(runs) - len(new)} of {len(runs)} sets and seeds are there")
    return missing, lines


def _read(words: Iterable[str]) -> dict[str, str]:
    given = dict(PROTOCOL)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise ConfigError(f"{word!r} is no override: it reads key=value.")
        if key == "method" or key.startswith("method."):
            raise ConfigError(f"{word} is not for a landscape: its method is layers, every set of them.")
        if "," in value and key not in LISTS and not value.startswith(("[", "{", "'", '"')):
            raise ConfigError(f"{word}: a landscape takes one value of {key}; lists: {', '.join(LISTS)}.")
        given[key] = value
    if lost := [key for key in ("model", "task", "k") if key not in given]:
        raise ConfigError(
            f"{lost[0]} is missing: a landscape reads model=<name> task=<name> k=<number of layers, or all>."
        )
    if not all(seed.isdigit() for seed in given["seed"].split(",")):
        raise ConfigError(f"seed={given['seed']} is not allowed: a landscape takes numbers, such as 0,42.")
    return given


def _size(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdigit():
        raise ConfigError(f"k={text} is not allowed: it is a number of layers, or all.")
    return int(text)


def _run(words: Iterable[str], layers: tuple[int, ...]) -> RunConfig:
    listed = ",".join(map(str, layers))
    return plain_run([*words, *SCRATCH, f"method.layers=[{listed}]"])


@dataclass(frozen=True)
class KeepingRows:
    """A task function whose runs become rows of their landscapes, wherever a launcher calls it."""

    task_function: Callable[[Any], Any]

    def __call__(self, config: Any) -> Any:
        """Run the task, then keep its row; a record whose row was lost with its answers is trained again."""
        from omegaconf import OmegaConf

        from layertune.evaluation.evaluate import watched

        run = RunConfig.from_hydra(config)
        if not run.force and key_of(run) not in rows_at(path_of(run)):
            config = OmegaConf.merge(config, {"force": True})
        answers: dict[str, tuple[Any, Any]] = {}

        def see(split: Any, predictions: Any) -> None:
            answers[split.name] = (predictions, split.store.labels)

        with watched(see):
            result = self.task_function(config)
        record = Store(run.results_dir, run.outputs_dir).find(run)
        assert record is not None, f"{run.run_id} is not done"
        is_classified = run.task.kind == "classification"
        seen = answers.get(run.task.data_name, (None, None)) if is_classified else (None, None)
        add_row(path_of(run), *entries_of(run, record, *seen))
        return result


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


def compared(row: Row, run: RunConfig, record: Record) -> dict[str, tuple[object, object]]:
    """Return what a row says beside what the record of a run of the same set says, by name."""
    again = entries_of(run, record, None, None)[1]
    names = ("run_id", "score", "best", "loss", "checks")
    return {name: (getattr(row, name), getattr(again, name)) for name in names}


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
