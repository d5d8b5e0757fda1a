"""Inputs that nobody would write: each part makes many from a seed and holds the product to one rule.

    python -m tests.fuzz                         all parts at their full number of cases (make fuzz)
    python -m tests.fuzz data --cases 100 --seed 7

A part is a module with `run(cases, seed)`, which returns one line per case that broke the rule; a line of
`PARTS` says how many cases it has in `make fuzz` and how many of them `make test` runs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random


@dataclass(frozen=True)
class Part:
    """One kind of input: what runs it, its cases in `make fuzz`, and the share that `make test` runs."""

    run: Callable[[int, int], list[str]]
    cases: int
    share: int
    slow: bool = False  # the share takes more than five seconds


def seeded_cases(cases: int, seed: int) -> Iterator[tuple[int, Random]]:
    """Number the cases and give each a generator of its own, so that one alone can be made again."""
    for case in range(cases):
        yield case, Random(f"{seed}-{case}")


def in_folders(cases: int, seed: int, check: Callable[[Path, Random, list[str]], str | None]) -> list[str]:
    """Call `check` once per case, in a folder of its own; return a line per case that was answered wrongly.

    Args:
        check: given the folder, the case's generator and a list to tell in what was done; returns what is
            wrong with the answer, None where it is right. An exception is wrong.
    """
    failures = []
    for case, rng in seeded_cases(cases, seed):
        told: list[str] = []
        with tempfile.TemporaryDirectory(prefix="layertune-fuzz-") as folder:
            try:
                wrong = check(Path(folder), rng, told)
            except Exception as error:
                wrong = f"{type(error).__name__}: {error}"
        if wrong:
            failures.append(f"case {case} ({', '.join(told)}): {wrong[:300]}")
    return failures
