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
from layertune.tasks.rows import DataError


def canonical_labels(
    values: Sequence[Any],
    task: TaskSpec,
    where: str,
    *,
    names: Sequence[str] = (),
    strings: Mapping[str, str] | None = None,
) -> np.ndarray:
    """Return [n] int64 class ids in the order of `task.labels`, or [n] float32 scores for regression.

    Args:
        values: integers, their decimal text, or label strings; one per row.
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
    ids: dict[Any, int] = {}
    for number, name in enumerate(names or task.labels):
        ids[number] = ids[str(number)] = order[name]
    ids.update({text: order[name] for text, name in strings.items()})
    try:
        return np.fromiter((ids[value] for value in values), dtype=np.int64, count=len(values))
    except (KeyError, TypeError):
        row, value = next((i, v) for i, v in enumerate(values) if not _is_known(v, ids))
        numbers = f"0 to {len(names or task.labels) - 1}"
        raise DataError(
            f"{where}: row {row + 1} has the label {value!r}; allowed are {numbers} or {', '.join(strings)}."
        ) from None


def _is_known(value: Any, ids: Mapping[Any, int]) -> bool:
    try:
        return value in ids
    except TypeError:  # a list or a mapping
        return False


def _scores(values: Sequence[Any], task: TaskSpec, where: str) -> np.ndarray:
    low, high = task.label_range or (-math.inf, math.inf)
    scores = np.empty(len(values), dtype=np.float32)
    for row, value in enumerate(values):
        try:
            score = float(value)
        except (TypeError, ValueError):
            score = math.nan
        if not (math.isfinite(score) and low <= score <= high):
            allowed = f"numbers from {low:g} to {high:g}" if task.label_range else "finite numbers"
            raise DataError(f"{where}: row {row + 1} has the score {value!r}; allowed are {allowed}.")
        scores[row] = score
    return scores


def text_column(values: Sequence[Any], column: str, where: str) -> list[str]:
    """Return a column of texts after checking that each is one; the empty string is allowed, null is not.

    Raises:
        DataError: a row has no text.
    """
    for row, value in enumerate(values):
        if not isinstance(value, str):
            found = "no text (null)" if value is None else f"{value!r}"
            raise DataError(
                f"{where}: row {row + 1} has {found} in column {column}; every row needs text there."
            )
    return list(values)


def check_counts(
    labels: np.ndarray,
    task: TaskSpec,
    where: str,
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
