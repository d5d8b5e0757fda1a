"""Files that the E2E scorer reads: outputs and references as JSON lists, or one JSON line per prediction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from layertune.errors import ConfigError
from layertune.evaluation.nlg.text import checked

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
