"""Inputs that nobody would write: each part makes many from a seed and holds the product to one rule.

    python -m tests.fuzz                         all parts at their full number of cases (make fuzz)
    python -m tests.fuzz data --cases 100 --seed 7

A part is a module with `run(cases, seed)`, which returns one line per case that broke the rule; a line of
`PARTS` says how many cases it has in `make fuzz` and how many of them `make test` runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
