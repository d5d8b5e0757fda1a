"""The texts that the E2E scorers get: one clean line each, checked before any work is done; and the files
that hold them, JSON lists or one JSON line per prediction.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layertune.errors import ConfigError

END_OF_TEXT = "<|endoftext|>"


def clean(text: str) -> str:
    """Return one line of words: cut at the end-of-text token, every run of white space made one space.

    Line separators (carriage return, U+0085, U+2028 ...) would split a text inside the scorers and shift
    every later item.
    """
    return " ".join(text.split(END_OF_TEXT, 1)[0].split())


def checked(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Return clean copies of outputs and references.

    Raises:
        ConfigError: no items, unequal counts, an item without references, something that is not text. An
            empty output is legal; an empty reference pads a list and is left out.
    """
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise ConfigError(
            "the hypotheses must be a list of strings, the references a list of lists of strings"
        )
    if len(hypotheses) != len(references):
        raise ConfigError(f"{len(hypotheses)} hypotheses for {len(references)} items with references")
    if not len(hypotheses):
        raise ConfigError("nothing to score: no hypotheses")
    pairs = enumerate(zip(hypotheses, references, strict=True), start=1)
    groups = [_checked_group(f"item {number}", text, group) for number, (text, group) in pairs]
    return [clean(text) for text in hypotheses], groups


def as_text(scores: Mapping[str, float | str | None]) -> str:
    """Return one line per score as papers print them: NIST and CIDEr as they are, the others times 100."""
    lines = []
    for name, value in scores.items():
        if isinstance(value, float):
            value = f"{value:.4f}" if "nist" in name or name == "cider" else f"{100 * value:.2f}"
        lines.append(f"{name:20} {value}")
    return "\n".join(lines)


def _checked_group(item: str, hypothesis: str, group: Sequence[str]) -> list[str]:
    if (
        not isinstance(group, Sequence)
        or isinstance(group, str)
        or not all(isinstance(text, str) for text in (hypothesis, *group))
    ):
        raise ConfigError(f"{item}: the hypothesis must be a string and its references a list of strings")
    try:
        "".join((hypothesis, *group)).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{item} holds half a surrogate pair, which is not text") from error
    references = [" ".join(reference.split()) for reference in group]
    # Taken as a reference of length 0, "" would undo the brevity penalty.
    if not any(references):
        raise ConfigError(f"{item} has no reference" + (", only empty ones" if references else ""))
    return [reference for reference in references if reference]


Corpus = tuple[list[str], list[list[str]]]
_KEYS = ("mr", "hypothesis", "references")


def read_lists(hypotheses: str | Path, references: str | Path) -> Corpus:
    """Read outputs (a JSON list of strings) and references (a JSON list of lists of strings).

    Raises:
        ConfigError: a file that cannot be read, or that holds something else.
    """
    outputs, groups = _parse(_read(hypotheses), hypotheses), _parse(_read(references), references)
    for path, value in ((hypotheses, outputs), (references, groups)):
        if not isinstance(value, list):
            raise ConfigError(f"{path} must hold a JSON list, not a {type(value).__name__}")
    try:
        checked(outputs, groups)
    except ConfigError as error:
        raise ConfigError(f"{hypotheses} and {references}: {error}") from error
    return outputs, groups


def read_predictions(path: str | Path) -> Corpus:
    """Read saved predictions: one JSON object per line with `mr`, `hypothesis` and `references`.

    Raises:
        ConfigError: an unreadable file, a line of another form, or one `mr` on two lines (it has one output,
            scored against all of its references).
    """
    rows, first_line = [], {}
    # Only "\n" ends a line here: U+2028 and its like may stand unescaped in a JSON string.
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = _parse(line, f"{path}, line {number},")
        if not isinstance(row, dict) or any(key not in row for key in _KEYS):
            raise ConfigError(f"{path}, line {number}, must be an object with the keys {', '.join(_KEYS)}")
        if not isinstance(row["mr"], str) or not isinstance(row["references"], list):
            raise ConfigError(f"{path}, line {number}: mr must be a string, references a list of strings")
        if (first := first_line.setdefault(row["mr"], number)) != number:
            raise ConfigError(f"{path} has the same mr on lines {first} and {number}: one output per mr")
        rows.append(row)
    outputs, groups = [row["hypothesis"] for row in rows], [row["references"] for row in rows]
    try:
        checked(outputs, groups)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return outputs, groups


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _parse(text: str, where: str | Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also: an integer of thousands of digits
        raise ConfigError(f"{where} is not JSON: {error}") from error
