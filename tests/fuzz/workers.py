"""Processes that all work on one sweep: whatever they do at once, each run is trained once."""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from processes import at_once, import_what_runs_need
from programs import program

from layertune import pipeline

REPO = Path(__file__).resolve().parents[2]
MOST = 16  # workers
SECONDS = 900


def run(cases: int, seed: int) -> list[str]:
    """Let up to 16 processes work on one sweep of as many runs as cases, which begin at a seed."""
    import_what_runs_need()
    workers = min(MOST, cases)
    with tempfile.TemporaryDirectory(prefix="layertune-workers-") as name:
        folder = Path(name)
        codes = at_once([partial(_sweep, folder, cases, seed, number) for number in range(workers)], SECONDS)
        failures = [
            f"worker {number} ended with {code}: {(folder / f'{number}.log').read_text()[-300:]}"
            for number, code in enumerate(codes)
            if code != 0
        ]
        trained = Counter((folder / "trained").read_text().split())
        failures += [f"{name} was trained {times} times" for name, times in trained.items() if times != 1]
        records = {path.stem for path in folder.glob("outputs/records/*.json")}
        if len(records) != cases or records != set(trained):
            failures.append(f"{cases} runs, {len(trained)} trained, {len(records)} records")
        failures += [f"{path} is left" for path in folder.glob("*/**/.*")]
    return failures


def _sweep(folder: Path, runs: int, seed: int, number: int) -> None:
    """Be one of the workers: `python run.py -m ...`, which notes each training that it begins."""
    os.chdir(folder)
    log = os.open(f"{number}.log", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    train = pipeline.train

    def noted(run, *parts):
        with (folder / "trained").open("a") as stream:
            stream.write(f"{run.run_id}\n")
        return train(run, *parts)

    pipeline.train = noted
    words = ("-m", "model=tiny_bert", "task=demo", "method=low_k", "protocol=smoke", "tracking=disabled")
    with pytest.MonkeyPatch.context() as patch:
        code = program(REPO / "run.py", [*words, f"seed=range({seed},{seed + runs})"], patch)
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)
