"""Every error that layertune raises by a name of its own, and the exit code that a command ends with."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

DONE, FAILED, WRONG_REQUEST, RESUMABLE = 0, 1, 2, 75

_LONGEST_SENTENCE = 1500  # characters; what stands in the middle of a longer one is left out
_LONGEST_MESSAGE = 300  # characters of an error of another library


class ConfigError(ValueError):
    """A request that cannot be run: one sentence that says what was given and what is allowed.

    What was given may be anything: the sentence stays on one line, of a length that can be read, and can be
    written in UTF-8.
    """

    exit_code = WRONG_REQUEST

    def __init__(self, sentence: object) -> None:
        super().__init__(one_line(str(sentence)))


class DataError(ConfigError):
    """Data that do not fit the request: names the file or hub id, what was found and what is allowed."""


class HubError(ConfigError):
    """Files that cannot be had from the hub: the sentence says why; its caller adds what to do."""


class ModelError(ConfigError):
    """A model that cannot be loaded or does not fit the request; one sentence says what to do."""


class ScoreError(ModelError):
    """Layers that cannot be scored; one sentence names the layer or what is missing."""


class CheckpointError(ConfigError):
    """A checkpoint that this run cannot go on from; nothing has been computed yet."""


class RecipeError(ConfigError):
    """Records of a search from which no choice can be made."""


class RecordError(ValueError):
    """A file that cannot be read as a complete record of this schema.

    Attributes:
        path: the file.
        reason: what is wrong with it, without its name.
    """

    exit_code = FAILED

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, one_line(reason)
        super().__init__(one_line(f"{path} {reason}; delete it, or run again with force=true."))


class RunFailed(RuntimeError):  # noqa: N818 - reads as a statement where it is raised
    """A run that did not finish; its record holds the reason."""

    exit_code = FAILED


class RunClaimed(RuntimeError):  # noqa: N818 - reads as a statement where it is raised
    """Another process is training the run, and a sweep has others to go on with.

    Attributes:
        turn: the run, with what tells when it is free (`layertune.records.store.Turn`).
    """

    def __init__(self, turn: Any) -> None:
        super().__init__(
            f"{turn.run.run_id}: another process is training it; its turn comes again at the end"
        )
        self.turn = turn


class CaptureError(Exception):
    """A CUDA device that cannot go on after a graph of a step failed; the message names the switch."""


class JavaError(RuntimeError):
    """Java, or a program run by it, could not start or ended early; the message gives the reason."""


class Interruption(KeyboardInterrupt):
    """The command was asked to stop and the same command goes on; like Ctrl-C it ends a whole sweep."""

    exit_code = RESUMABLE


def one_line(text: str) -> str:
    """Return a text on one line that can be printed: breaks become spaces, the middle of a long one dots."""
    line = re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text.strip())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if len(line) > _LONGEST_SENTENCE:
        line = f"{line[: _LONGEST_SENTENCE - 300]} … {line[-290:]}"
    return line


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names the likeliest of what is known, to be added to a sentence, or nothing."""
    near = get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


@contextmanager
def said_in(words: Mapping[str, str]) -> Iterator[None]:
    """Let the errors of a block speak of what was typed at another door than `run.py`.

    Args:
        words: a key of the configuration -> what stands for it there; `key=` is the key before a value.
    """
    longest_first = sorted(words, key=len, reverse=True)
    ends = ("" if key.endswith("=") else r"(?!\.?\w|=)" for key in longest_first)
    pattern = "|".join(
        rf"(?<![\w./'\"]){re.escape(key)}{end}" for key, end in zip(longest_first, ends, strict=True)
    )
    try:
        yield
    except (ConfigError, RunFailed) as error:
        error.args = (re.sub(pattern, lambda found: words[found[0]], str(error)),)
        raise


def message_of(error: BaseException) -> str:
    """Return the message of an error in one line of 300 characters at most, or its type without one."""
    text = one_line(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + " …"


def in_words(error: BaseException) -> str:
    """Return the type of an error and its message in one line."""
    return f"{type(error).__name__}: {message_of(error)}" if str(error).strip() else type(error).__name__


def with_causes(error: BaseException) -> list[BaseException]:
    """Return an error and all that led to it, by `from` or as it was being handled, the first cause last."""
    found: list[BaseException] = []
    ahead: list[BaseException | None] = [error]
    while ahead:
        each = ahead.pop()
        if each is not None and each not in found:
            found.append(each)
            ahead += [each.__cause__, each.__context__]
    return found
