"""Fixed choices of three of twelve layers, so that every arm trains the same ones; as dotted selectors."""

from __future__ import annotations

import random
from collections.abc import Sequence


def middle(num_layers: int, k: int, scores: Sequence[float] | None, rng: random.Random) -> tuple[int, ...]:
    """k neighbours below the middle: 5, 6, 7 of 12."""
    first = (num_layers - k + 1) // 2
    return tuple(range(first, first + k))


def spread(num_layers: int, k: int, scores: Sequence[float] | None, rng: random.Random) -> tuple[int, ...]:
    """The last of each of k blocks: 4, 8, 12 of 12."""
    return tuple(num_layers * (i + 1) // k for i in range(k))


SETS = {  # lowest layer of 12 -> overrides that choose the set
    10: ("method=top_k",),
    5: ("method=top_k", "method.selector=layertune.benchmark.selectors.middle"),
    4: ("method=top_k", "method.selector=layertune.benchmark.selectors.spread"),
    1: ("method=bottom_k",),
}
