"""Rows of one split from the hub: a pinned revision, with columns, labels and counts checked, never trusted.

The `datasets` library is imported here, inside functions, and nowhere else.
"""

from __future__ import annotations

import fnmatch
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layertune.config import HubSource, TaskSpec
from layertune.errors import DataError
from layertune.hub import reason, refuse_damaged_data, repository, why_no_answer
from layertune.tasks.formats import Table
from layertune.tasks.labels import canonical_labels, check_counts, text_column
from layertune.tasks.meanings import check_meanings
from layertune.tasks.rows import Place, Rows, concatenate, split_off, unlabelled

log = logging.getLogger(__name__)

REDRAW_SEED = 42  # Choice: [tasks without an official split] a test part is drawn once for all runs
_COMMIT = re.compile(r"[0-9a-f]{40}")


def read_hub(task: TaskSpec, split: str) -> tuple[Rows, str, str | None]:
    """Return the rows of one split, their status and the commit they are of, where it can be told.

    Raises:
        DataError: the hub cannot be reached and nothing is cached, or the rows are not what the task says.
    """
    hub = task.hub
    if hub is None:
        raise DataError(f"task={task.name} names no hub source: give its rows with data_dir=<folder>.")
    if hub.pool:
        parts = [_read_part(task, hub, name, split) for name in hub.pool]
        whole, commit = concatenate([rows for rows, _ in parts]), parts[0][1]
        if hub.test_size is None or hub.test_size >= len(whole):
            raise DataError(f"task {task.name}: hub.test_size={hub.test_size} of {len(whole)} pooled rows.")
        rest, drawn = split_off(whole, hub.test_size, REDRAW_SEED)
        rows = rest if split == task.train_split else drawn
    else:
        rows, commit = _read_part(task, hub, hub.splits.get(split, split), split)
    where = Place(f"{hub.id} ({split})")
    expected = hub.counts.get(split, task.counts.get(split))
    check_counts(rows.labels, task, where, expected, (task.label_counts or {}).get(split))
    return rows, hub.status, hub.revision or commit


def _read_part(task: TaskSpec, hub: HubSource, part: str, split: str) -> tuple[Rows, str | None]:
    ways_out = (
        f"give a local copy with data_dir=<folder> (<folder>/{task.data_name}/train.parquet, csv, tsv or "
        "jsonl), or take the built-in task=demo"
    )
    data, commit = _load(hub, part, f"Task {task.name}: {hub.id}", ways_out)
    where = Place(f"{hub.id} ({part})")
    generated = task.kind == "generation"  # both sides are text, nothing is labelled
    wanted = task.columns if generated else (*task.columns, "label")
    columns = {name: hub.columns.get(name, name) for name in wanted}
    conditions = (hub.where or {}).get(split, {})
    if missing := [name for name in (*columns.values(), *conditions) if name not in data.column_names]:
        raise DataError(
            f"{where} has no column {' or '.join(missing)}: it has {', '.join(data.column_names)}. "
            f"Correct hub.columns of task {task.name}, or pin a revision that has them."
        )
    values = {name: data[column][:] for name, column in columns.items()}
    keep = [True] * len(data)
    for column, wanted in conditions.items():
        keep = [kept and value == wanted for kept, value in zip(keep, data[column][:], strict=True)]
    if hub.drop_labels:
        keep = [
            kept and label not in hub.drop_labels for kept, label in zip(keep, values["label"], strict=True)
        ]
    if not all(keep):
        log.info("%s: %d of %d rows kept", where, sum(keep), len(keep))
        values = {
            name: [v for v, kept in zip(column, keep, strict=True) if kept] for name, column in values.items()
        }
    if generated:
        rows = unlabelled(tuple(text_column(values[name], columns[name], where) for name in task.columns))
        check_meanings(rows, where, task.meanings.get(split))
        return rows, commit
    names = _label_names(data.features[columns["label"]], hub, where)
    rows = Rows(
        tuple(text_column(values[name], columns[name], where) for name in task.columns),
        canonical_labels(values["label"], task, where, names=names, strings=hub.label_strings),
    )
    return rows, commit


def read_whole(name: str, revision: str | None) -> tuple[list[tuple[str, Table]], str, str | None]:
    """Read a data set of one's own choice: its training split and the first of validation, dev and test.

    Returns:
        tables by name, training rows first; the source; the commit, where it can be told.

    Raises:
        DataError: the hub does not give it, or it has no training split.
    """
    splits, commit = _load(
        HubSource(id=name, revision=revision), None, f"The data set {name}", "name a file of rows instead"
    )
    if "train" not in splits:
        raise DataError(f"The data set {name} has no split `train`: its splits are {', '.join(splits)}.")
    held_out = next((part for part in ("validation", "dev", "test") if part in splits), None)
    tables = []
    for part in filter(None, ("train", held_out)):
        data = splits[part]
        columns = {column: data[column][:] for column in data.column_names}
        for column, feature in data.features.items():
            if hasattr(feature, "int2str"):
                columns[column] = [
                    None if id is None or id < 0 else feature.int2str(id) for id in columns[column]
                ]
        tables.append((f"{name} ({part})", Table(tuple(columns), columns)))
    return tables, f"hub:{name}", commit


def _label_names(feature: Any, hub: HubSource, where: Place) -> tuple[str, ...]:
    """Return what the integers of the label column mean, after comparing with what the hub itself says."""
    told = getattr(feature, "names", None)
    renamed = tuple((hub.label_strings or {}).get(name, name) for name in told or ())
    if told and hub.label_names and renamed != hub.label_names:
        raise DataError(
            f"{where} numbers its labels {', '.join(told)} and {', '.join(hub.label_names)} is expected: "
            "correct hub.label_names, or pin another revision."
        )
    return hub.label_names or renamed


def _load(hub: HubSource, part: str | None, what: str, ways_out: str) -> tuple[Any, str | None]:
    """Return one split as the library has it, None = all by their names, and the commit it is of.

    Raises:
        DataError: it cannot be had; the sentence says of what, and what to do instead.
    """
    try:
        with _offline_if_unreachable():
            if hub.data_files and part is not None:
                return _load_files(hub, part)
            return _load_whole(hub, part)
    except Exception as error:  # whatever the library raises: what it cannot give cannot be had
        if isinstance(error, MemoryError | DataError):
            raise
        raise DataError(
            f"{what} at revision {hub.revision or 'main'} cannot be loaded "
            f"({reason(error)}). Go online or set HF_HOME to a cache that holds it, {ways_out}."
        ) from error


def _load_whole(hub: HubSource, part: str | None) -> tuple[Any, str | None]:
    """Read what the library finds by itself."""
    import datasets

    commit = made = None
    try:
        data = datasets.load_dataset(hub.id, hub.config, split=part, revision=hub.revision)
        whole = [data] if part is not None else data.values()
        files = [entry for split in whole for entry in split.cache_files]
        commit = _cached_revision(files, hub)
        made = next((str(Path(entry["filename"]).parent) for entry in files), None)
        return data, commit
    finally:  # a damaged file may have been read, or be why nothing was
        refuse_damaged_data(hub.id, commit or hub.revision, made)


def _load_files(hub: HubSource, part: str) -> tuple[Any, str]:
    """Read the files that a task names itself: in the cache they are found by name, without the hub."""
    import datasets

    named = dict(hub.data_files or {})

    def wanted(listed: Sequence[str], fetched: Path | None) -> list[str]:
        return [name for pattern in named.values() for name in fnmatch.filter(listed, pattern)]

    def complete(folder: Path) -> bool:
        return all(any(folder.glob(pattern)) for pattern in named.values())

    folder = repository(hub.id, hub.revision, wanted, complete, kind="dataset")
    files = sorted(folder.glob(named[part]))
    kind = files[0].suffix.removeprefix(".").replace("jsonl", "json")
    paths = {part: [str(file) for file in files]}
    return datasets.load_dataset(kind, data_files=paths, split=part), folder.name


def _cached_revision(files: Sequence[dict[str, Any]], hub: HubSource) -> str | None:
    """Return the commit of what the library read, where its cache tells.

    Raises:
        DataError: it is not the pinned one: offline, the library takes whichever its cache got last.
    """
    commits = (Path(entry["filename"]).parent.name for entry in files)
    found = next((commit for commit in commits if _COMMIT.fullmatch(commit)), None)
    pinned = hub.revision if _COMMIT.fullmatch(hub.revision or "") else None
    if None not in (found, pinned) and found != pinned:
        raise DataError(f"The cache holds {hub.id} at {found} and {pinned} is pinned: go online once.")
    return found


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Switch the library to its cache while the hub does not answer, instead of minutes of retries."""
    import datasets

    silence = None if datasets.config.HF_HUB_OFFLINE else why_no_answer()
    if silence is None:
        yield
        return
    log.warning("%s: looking in the local cache only", silence)
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = False
