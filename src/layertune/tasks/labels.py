"""Values of a label column become canonical labels: class ids in the task's order, or gold scores.

Labels are matched by name wherever the source gives names: sources number the same classes differently
(trec and subj on the hub are the known traps).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layertune.config import TaskSpec
from layertune.errors import DataError
from layertune.tasks.rows import Place


def canonical_labels(
    values: Sequence[Any],
    task: TaskSpec,
    where: Place,
    *,
    names: Sequence[str] = (),
    strings: Mapping[str, str] | None = None,
) -> np.ndarray:
    """Return [n] int64 class ids in the order of `task.labels`, or [n] float32 scores for regression.

    Args:
        values: whole numbers, their decimal text, or label strings; one per row.
        task: says the canonical order, or the range of scores.
        where: the file or hub split, for messages.
        names: what the source's integers 0, 1, ... mean; empty = the canonical order.
        strings: the source's label strings -> canonical names; None = they are the canonical names.

    Raises:
        DataError: a label is missing, or is none of the allowed ones.
    """
    if task.kind == "regression":
        return _scores(values, task, where)
    order = {name: i for i, name in enumerate(task.labels)}
    strings = strings or {name: name for name in task.labels}
    for name in (*names, *strings.values()):
        if name not in order:
            raise DataError(
                f"{where}: label {name!r} is not one of task {task.name}'s labels, {', '.join(task.labels)}."
            )
    if len(set(names)) != len(names):
        raise DataError(f"{where}: its label names {', '.join(names)} name one label more than once.")
    ids: dict[Any, int] = {}
    for number, name in enumerate(names or task.labels):
        ids[number] = ids[str(number)] = ids[f"{number}.0"] = order[name]  # a float column holds 1.0
    ids.update({text: order[name] for text, name in strings.items()})
    found = np.fromiter((_id(value, ids) for value in values), dtype=np.int64, count=len(values))
    if len(unknown := np.flatnonzero(found < 0)):
        row = int(unknown[0])
        given = "no label (null)" if values[row] is None else f"the label {values[row]!r}"
        numbers = f"0 to {len(names or task.labels) - 1}"
        raise DataError(f"{where.row(row)} has {given}; allowed are {numbers} or {', '.join(strings)}.")
    return found


def _id(value: Any, ids: Mapping[Any, int]) -> int:
    """Return a label's id, -1 where there is none; `true` is no number, and says nothing of the order."""
    try:
        return -1 if isinstance(value, bool) else ids.get(value, -1)
    except TypeError:  # a list or a mapping
        return -1


def _scores(values: Sequence[Any], task: TaskSpec, where: Place) -> np.ndarray:
    low, high = task.label_range or (-math.inf, math.inf)
    exact = np.array([number_of(value) for value in values], dtype=np.float64)
    with np.errstate(over="ignore"):  # 1e300 becomes inf, which is refused
        scores = exact.astype(np.float32)
    wrong = ~(np.isfinite(scores) & (exact >= low) & (exact <= high))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        allowed = f"numbers from {low:g} to {high:g}" if task.label_range else "finite numbers"
        point = ", with a point before the fraction" if "," in str(values[row]) else ""
        raise DataError(f"{where.row(row)} has the score {values[row]!r}; allowed are {allowed}{point}.")
    return scores


def number_of(value: Any) -> float:
    """Return a number or its decimal text as a float, NaN for anything else."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def text_column(values: Sequence[Any], column: str, where: Place) -> list[str]:
    """Return a column of texts after checking that each is one; the empty string is allowed, null is not.

    Raises:
        DataError: a row has no text, or half a character (a surrogate without its partner).
    """
    for row, value in enumerate(values):
        if not isinstance(value, str):
            found = "no text (null)" if value is None else f"{value!r}"
            raise DataError(f"{where.row(row)} has {found} in column {column}; every row needs text there.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = value[error.start]
            raise DataError(
                f"{where.row(row)} has half a character ({half!r}, a surrogate without its partner) in "
                f"column {column}: the text was cut within it; replace or drop it."
            ) from error
    return list(values)


def check_counts(
    labels: np.ndarray,
    task: TaskSpec,
    where: Place,
    rows: int | None,
    histogram: Mapping[str, int] | None,
) -> None:
    """Compare rows and labels with what was announced for them.

    Args:
        labels: canonical labels of the split.
        task: names the labels.
        where: the file or hub split, for messages.
        rows: expected number of rows; None = not announced.
        histogram: canonical label name -> expected rows; None = not announced.

    Raises:
        DataError: either differs, or there are no rows at all.
    """
    if len(labels) == 0:
        raise DataError(f"{where} has no rows.")
    if rows is not None and len(labels) != rows:
        raise DataError(
            f"{where} has {len(labels):,} rows and {rows:,} are expected: not the announced data."
        )
    if histogram is not None:
        found = np.bincount(labels, minlength=len(task.labels))
        counted = dict(zip(task.labels, found.tolist(), strict=True))
        if counted != dict(histogram):
            raise DataError(
                f"{where} has label counts {counted} and {dict(histogram)} are expected: "
                "not the announced data."
            )
