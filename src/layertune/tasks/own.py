"""Data of one's own (`task=own`): tables with a column of text and one of labels, found and checked.

What a person would want to know of the rows is said once, as warnings: rows without text, classes of one row,
texts that stand in both splits.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layertune.config import TaskSpec
from layertune.config.files import own_files
from layertune.config.schema import OwnSpec
from layertune.errors import DataError, did_you_mean
from layertune.tasks.formats import Table, read_table
from layertune.tasks.labels import canonical_labels, number_of, text_column
from layertune.tasks.rows import Place, Rows, split_off

log = logging.getLogger(__name__)

HELD_OUT = 10  # the share of the training rows that is held out where no evaluation rows are given: a tenth
HELD_OUT_SEED = 0
_LISTED = 12  # labels that are shown
_FEW = 20  # so many classes are never taken for free text


@dataclass(frozen=True)
class OwnRows:
    """The rows of both splits, and what their labels are.

    Attributes:
        rows: "train" and "validation".
        labels: class names, ascending (numbers by value); empty for regression.
        status: `own`, or what is special about the split.
        source: `local`, or the data set on the hub.
        revision: of that data set.
    """

    rows: dict[str, Rows]
    labels: tuple[str, ...]
    status: str
    source: str
    revision: str | None = None


def read_own(own: OwnSpec, task: TaskSpec) -> OwnRows:
    """Read the rows that `own.*` names.

    Args:
        own: files and columns.
        task: its kind (classification or regression) and its columns.

    Raises:
        ConfigError: a file is not there.
        DataError: a column is missing, or what is in it cannot be learned.
    """
    files = own_files(own)
    if files is None:
        from layertune.tasks.hub import read_whole

        tables, source, revision = read_whole(str(own.train), own.revision)
    else:
        wanted = [*task.columns, own.label]
        tables = [(str(path), read_table(path, wanted)) for path in files]
        source, revision = "local", None
    parts = [_texts_and_labels(name, table, own, task) for name, table in tables]
    if task.kind == "regression":
        names: tuple[str, ...] = ()
        found = [Rows(texts, canonical_labels(labels, task, where)) for texts, labels, where in parts]
    else:
        classes = [
            [_class_name(value, where, row) for row, value in enumerate(labels)] for _, labels, where in parts
        ]
        names = _names_of([name for part in classes for name in part], own, parts[0][2])
        number = {name: index for index, name in enumerate(names)}
        ids = [np.array([number[name] for name in part], dtype=np.int64) for part in classes]
        found = [Rows(texts, labels) for (texts, _, _), labels in zip(parts, ids, strict=True)]
    if len(found) == 1:
        train, held_out = split_off(found[0], max(1, len(found[0]) // HELD_OUT), HELD_OUT_SEED)
        log.info(
            "no evaluation rows are given: %d of %d training rows are held out", len(held_out), len(found[0])
        )
        status = "own + held-out tenth"
    else:
        (train, held_out), status = found, "own"
    _warn(train, held_out, names)
    return OwnRows({"train": train, "validation": held_out}, names, status, source, revision)


def _texts_and_labels(
    name: str, table: Table, own: OwnSpec, task: TaskSpec
) -> tuple[tuple[list[str], ...], list[Any], Place]:
    """Return the columns that are read, without the rows that have no text."""
    if not table.names:
        raise DataError(f"{name} is empty.")
    for key, column in (("text", own.text), ("text2", own.text2), ("label", own.label)):
        if column is not None and column not in table.names:
            raise DataError(
                f"{name} has no column {column!r}; its columns are {', '.join(table.names)}: "
                f"say own.{key}=<column>.{did_you_mean(column, table.names)}"
            )
    columns = [table.columns[column] for column in task.columns]
    kept = [
        row for row, texts in enumerate(zip(*columns, strict=True)) if all(_has_text(text) for text in texts)
    ]
    if not kept:
        raise DataError(f"{name} has no row with text in {' and '.join(task.columns)}.")
    if len(kept) < len(columns[0]):
        log.warning("%s: %d rows without text are left out", name, len(columns[0]) - len(kept))
    where = Place(name, [table.lines[row] for row in kept] if table.lines else ())
    texts = tuple(
        text_column([column[row] for row in kept], title, where)
        for column, title in zip(columns, task.columns, strict=True)
    )
    return texts, [table.columns[own.label][row] for row in kept], where


def _has_text(value: Any) -> bool:
    return value is not None and (not isinstance(value, str) or bool(value.strip()))


def _class_name(value: Any, where: Place, row: int) -> str:
    """Return a label as text: 3, 3.0 and "3" are one class, and so are true and "true"."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).lower()
    if isinstance(value, float) and not math.isfinite(value):
        value = None
    if isinstance(value, float) and value == int(value):
        value = int(value)
    name = "" if value is None else str(value).strip()
    if not name:
        raise DataError(f"{where.row(row)} has no label.")
    return name.removesuffix(".0") if name.removesuffix(".0").lstrip("-").isdigit() else name


def _names_of(values: Sequence[str], own: OwnSpec, where: Place) -> tuple[str, ...]:
    """Return the distinct labels in order; refuse what is no classes."""
    counts = Counter(values)
    numbers = [name for name in counts if math.isfinite(number_of(name))]
    if len(counts) < 2:
        raise DataError(
            f"{where}: column {own.label!r} has one label, {values[0]!r}: two are needed at least."
        )
    if len(counts) > max(_FEW, len(values) // 2):
        what = "numbers: say own.regression=true" if len(numbers) == len(counts) else "free text, not classes"
        raise DataError(
            f"{where}: column {own.label!r} has {len(counts):,} different labels in {len(values):,} rows "
            f"({', '.join(repr(name[:30]) for name in [*counts][:3])}, …): these look like {what}."
        )
    names = sorted(counts, key=float) if len(numbers) == len(counts) else sorted(counts)
    shown = ", ".join(f"{name} ({counts[name]:,})" for name in names[:_LISTED])
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    log.info("labels%s: %s%s", "" if own.eval is None else ", of both files", shown, more)
    return tuple(names)


def _warn(train: Rows, held_out: Rows, names: Sequence[str]) -> None:
    if not len(train) or not len(held_out):
        raise DataError(f"{len(train)} rows to train on and {len(held_out)} to evaluate: both need some.")
    if names:
        trained = np.bincount(train.labels, minlength=len(names))
        for count, words in ((1, "one training row"), (0, "no training row")):
            if few := [names[index] for index in np.flatnonzero(trained == count)]:
                log.warning("classes with %s: %s", words, ", ".join(few[:_LISTED]))
    known = set(zip(*train.texts, strict=True))
    both = sum(texts in known for texts in zip(*held_out.texts, strict=True))
    if both:
        log.warning("%d of %d evaluation rows stand in the training rows too", both, len(held_out))
