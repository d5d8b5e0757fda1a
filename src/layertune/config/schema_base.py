"""What the parts of the schema share: marks of identity, what a value may be, training values.

Every field that can change a number is part of the run's identity unless it carries `not_identity()`. The
default of an identity field is its *neutral* value (today's behaviour): a field at its default is left out
of the identity, so an option added later leaves the identities of old records as they are
(`layertune.config.identity`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args


def not_identity(default: Any = None, factory: Any = None) -> Any:
    """Return a field that does not enter the identity of a run (paths, devices, speed switches, titles)."""
    if factory is not None:
        return field(default_factory=factory, metadata={"identity": False})
    return field(default=default, metadata={"identity": False})


def always_identity(default: Any) -> Any:
    """Return a field that enters the identity even at its default: what a reader expects to find there."""
    return field(default=default, metadata={"identity": "always"})


def resolved_later(neutral: Any) -> Any:
    """Return a field that is None until resolved; resolved to `neutral`, it stays out of the identity."""
    return field(default=None, metadata={"neutral": neutral})


def derived(factory: Any) -> Any:
    """Return a field that follows from the others and that nobody gives; it does not enter the identity."""
    return field(default_factory=factory, metadata={"identity": False, "derived": True})


# -- what a value may be, beyond its type -------------------------------------------------------------------

LARGEST_COUNT = 10**9  # of whole numbers without a limit of their own


@dataclass(frozen=True)
class Allowed:
    """Marks a type (`Annotated[int, Allowed(...)]`): which of its values are allowed, and how one says so."""

    holds: Callable[[Any], bool]
    words: str


def between(low: float, high: float, *, above: bool = False, below: bool = False) -> Allowed:
    """Allow numbers from `low` to `high`, without `low` if `above`, without `high` if `below`."""

    def holds(value: float) -> bool:  # false for NaN
        return (low < value if above else low <= value) and (value < high if below else value <= high)

    end = f"{'below ' if below else 'at most ' if above else ''}{high:,}"
    return Allowed(holds, f"above {low:,} and {end}" if above else f"from {low:,} to {end}")


def matching(pattern: str, words: str) -> Allowed:
    """Allow texts that match a pattern from end to end."""
    compiled = re.compile(pattern, re.ASCII)
    return Allowed(lambda text: compiled.fullmatch(text) is not None, words)


def one_of(*names: str) -> Allowed:
    """Allow these texts; a Literal does the same where the type checker is to know them."""
    return Allowed(lambda text: text in names, f"({', '.join(names)})")


def listing(low: int, high: int, words: str) -> Allowed:
    """Allow lists of so many entries, each of them once."""
    return Allowed(lambda entries: low <= len(entries) <= high and len(set(entries)) == len(entries), words)


Count = Annotated[int, between(1, LARGEST_COUNT)]
Whole = Annotated[int, between(0, LARGEST_COUNT)]
Seed = Annotated[int, between(0, 2**32 - 1)]
Threads = Annotated[int, between(1, 1024)]  # torch ends in a segmentation fault with 100,000
Number = Annotated[float, between(-1e9, 1e9)]
Amount = Annotated[float, between(0, 1e9)]
Norm = Annotated[float, between(0, 1e9, above=True)]
Rate = Annotated[float, between(0, 1, above=True, below=True)]
Share = Annotated[float, between(0, 1, below=True)]
Rates = Annotated[tuple[Rate, ...], listing(1, 100, "(at least one, each once)")]
Betas = Annotated[tuple[Share, ...], Allowed(lambda betas: len(betas) == 2, "(AdamW takes two)")]

# Names become parts of file names: a run's record, its predictions, the folder of a data set.
NAME = matching(r"\w[\w.-]{0,59}", "of at most 60 letters, digits and _ . -")
Name = Annotated[str, NAME]
Text = Annotated[str, matching(r"(?s:.*\S.*)", "that is not empty")]
Line = Annotated[str, matching(r"[^\n\r\t]{1,300}", "on one line, of at most 300 characters")]
Source = Annotated[
    str,
    matching(r"(?s:package:.*)|\w[\w.-]*(/\w[\w.-]*)?", "naming a model on the hub (a folder is model.path)"),
]
Project = Annotated[str, matching(r"[^/\\#?%:\s]{1,128}", "without spaces and / \\ # ? % :")]  # W&B's rule


@dataclass(frozen=True)
class IsPath:
    """Marks a text that names a file or folder of this machine: records keep its last component alone."""


def _can_be_path(text: str) -> bool:
    longest = max(len(part.encode()) for part in text.split("/"))
    return 0 < len(text) < 4000 and longest <= 255 and not {"\n", "\r", "\t"} & set(text)


Folder = Annotated[
    str, Allowed(_can_be_path, "naming a folder on one line, at most 255 bytes a part"), IsPath()
]
File = Annotated[str, Allowed(_can_be_path, "naming a file on one line, at most 255 bytes a part"), IsPath()]

Grid = Literal["paper", "fair", "tuned"]
GridName = Annotated[str, one_of(*get_args(Grid))]


@dataclass(frozen=True)
class TrainDefaults:
    """Training values that a task, method, protocol or recipe proposes; None proposes nothing."""

    epochs: Count | None = None
    batch_size: Count | None = None
    learning_rate: Rate | None = None
    head_learning_rate: Rate | None = None
    betas: Betas | None = None
    weight_decay: Share | None = None
    schedule: Literal["linear", "cosine", "constant"] | None = None
    warmup_ratio: Share | None = None
    clip_norm: Norm | None = None
    label_smoothing: Share | None = None
    precision: Literal["fp32", "bf16"] | None = None
