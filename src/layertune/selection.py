"""Which k layers to train, given their scores (§3.1) or by position: pure functions.

Every selector takes (num_layers, k, scores, rng) and returns 1-based layer numbers, ascending. Ties go to
the lower
layer. Blocks are contiguous and differ by at most one layer; the larger ones come first (22 layers, k = 3:
8, 7, 7).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import pairwise

from layertune.errors import ConfigError

Selector = Callable[[int, int, Sequence[float] | None, random.Random], tuple[int, ...]]


def highest(num_layers: int, k: int, scores: Sequence[float] | None, rng: random.Random) -> tuple[int, ...]:
    """The k layers of highest score (Paper: §3.1, high k)."""
    values = _checked(num_layers, k, scores, "highest")
    return _numbered(_ascending([-value for value in values], range(num_layers))[:k])


def lowest(num_layers: int, k: int, scores: Sequence[float] | None, rng: random.Random) -> tuple[int, ...]:
    """The k layers of lowest score (Paper: §3.1, low k)."""
    values = _checked(num_layers, k, scores, "lowest")
    return _numbered(_ascending(values, range(num_layers))[:k])


def block_highest(
    num_layers: int, k: int, scores: Sequence[float] | None, rng: random.Random
) -> tuple[int, ...]:
    """The layer of highest score in each of k blocks (Paper: §3.1, block-wise high)."""
    values = [-value for value in _checked(num_layers, k, scores, "block_highest")]
    return _numbered([_ascending(values, block)[0] for block in blocks(num_layers, k)])


def block_lowest(
    num_layers: int, k: int, scores: Sequence[float] | None, rng: random.Random
) -> tuple[int, ...]:
    """The layer of lowest score in each of k blocks (Paper: §3.1, block-wise low)."""
    values = _checked(num_layers, k, scores, "block_lowest")
    return _numbered([_ascending(values, block)[0] for block in blocks(num_layers, k)])


def block_median(
    num_layers: int, k: int, scores: Sequence[float] | None, rng: random.Random
) -> tuple[int, ...]:
    """The layer of median score in each of k blocks (Paper: §7.5).

    Choice: [an even block's median] of the two middle layers the one of lower score; `block_median_upper`
    takes the other.
    """
    values = _checked(num_layers, k, scores, "block_median")
    return _numbered([_ascending(values, block)[(len(block) - 1) // 2] for block in blocks(num_layers, k)])


def block_median_upper(
    num_layers: int, k: int, scores: Sequence[float] | None, rng: random.Random
) -> tuple[int, ...]:
    """As `block_median`, with the higher of the two middle layers of an even block."""
    values = _checked(num_layers, k, scores, "block_median_upper")
    return _numbered([_ascending(values, block)[len(block) // 2] for block in blocks(num_layers, k)])


def block_random(
    num_layers: int, k: int, scores: Sequence[float] | None, rng: random.Random
) -> tuple[int, ...]:
    """One layer drawn from each of k blocks (Paper: §7.5)."""
    _check_k(num_layers, k)
    return _numbered([rng.choice(block) for block in blocks(num_layers, k)])


def random_layers(
    num_layers: int, k: int, scores: Sequence[float] | None, rng: random.Random
) -> tuple[int, ...]:
    """Draw k layers without replacement (Paper: §4.2, random k)."""
    _check_k(num_layers, k)
    return _numbered(rng.sample(range(num_layers), k))


def top(num_layers: int, k: int, scores: Sequence[float] | None, rng: random.Random) -> tuple[int, ...]:
    """The k layers nearest the head (Paper: §4.2, top k)."""
    _check_k(num_layers, k)
    return _numbered(range(num_layers - k, num_layers))


def bottom(num_layers: int, k: int, scores: Sequence[float] | None, rng: random.Random) -> tuple[int, ...]:
    """The k layers nearest the embeddings (Paper: §4.2, bottom k)."""
    _check_k(num_layers, k)
    return _numbered(range(k))


SELECTORS: dict[str, Selector] = {
    "highest": highest,
    "lowest": lowest,
    "block_highest": block_highest,
    "block_lowest": block_lowest,
    "block_median": block_median,
    "block_median_upper": block_median_upper,
    "block_random": block_random,
    "random": random_layers,
    "top": top,
    "bottom": bottom,
}


def blocks(num_layers: int, k: int) -> list[range]:
    """Split the layers 0..L-1 into k contiguous blocks.

    Choice: [blocks when k does not divide L] sizes differ by at most one, larger blocks come first.
    """
    size, larger = divmod(num_layers, k)
    starts = [index * size + min(index, larger) for index in range(k + 1)]
    return [range(start, end) for start, end in pairwise(starts)]


def _ascending(values: Sequence[float], layers: Sequence[int]) -> list[int]:
    return sorted(layers, key=lambda layer: values[layer])  # stable: ties stay in the order of the layers


def _numbered(layers: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(layer + 1 for layer in layers))


def _check_k(num_layers: int, k: int) -> None:
    if not 1 <= k <= num_layers - 1:
        raise ConfigError(f"k={k} is out of range: {num_layers} layers allow 1 to {num_layers - 1}.")


def _checked(num_layers: int, k: int, scores: Sequence[float] | None, name: str) -> Sequence[float]:
    _check_k(num_layers, k)
    if scores is None:
        raise ConfigError(f"selector={name} needs scores: name a scorer as well (for example cosine).")
    if len(scores) != num_layers:
        raise ConfigError(f"selector={name} got {len(scores)} scores for {num_layers} layers.")
    return scores
