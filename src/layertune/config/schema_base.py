"""What the parts of the schema share: the error of a wrong request, marks of identity, training values.

Every field that can change a number is part of the run's identity unless it carries `not_identity()`. The
default of an identity field is its *neutral* value (today's behaviour): a field at its default is left out
of the identity, so an option added later leaves the identities of old records as they are
(`layertune.config.identity`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

_LONGEST_SENTENCE = 1500  # characters; what stands in the middle of a longer one is left out


class ConfigError(ValueError):
    """A request that cannot be run: one sentence that says what was given and what is allowed.

    What was given may be anything: the sentence stays on one line, of a length that can be read, and can be
    written in UTF-8.
    """

    def __init__(self, sentence: object) -> None:
        super().__init__(one_line(str(sentence)))


def one_line(text: str) -> str:
    """Return a text on one line that can be printed: breaks become spaces, the middle of a long one dots."""
    line = re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text.strip())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if len(line) > _LONGEST_SENTENCE:
        line = f"{line[: _LONGEST_SENTENCE - 300]} … {line[-290:]}"
    return line


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


@dataclass(frozen=True)
class TrainDefaults:
    """Training values that a task, method, protocol or recipe proposes; None proposes nothing."""

    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    head_learning_rate: float | None = None
    betas: tuple[float, ...] | None = None
    weight_decay: float | None = None
    schedule: Literal["linear", "cosine", "constant"] | None = None
    warmup_ratio: float | None = None
    clip_norm: float | None = None
    label_smoothing: float | None = None
    precision: Literal["fp32", "bf16"] | None = None
