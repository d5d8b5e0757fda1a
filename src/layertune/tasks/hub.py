"""Rows of one split from the hub: a pinned revision, with columns, labels and counts checked, never trusted.

The `datasets` library is imported here, inside functions, and nowhere else.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layertune.config import HubSource, TaskSpec
from layertune.tasks.labels import canonical_labels, check_counts, text_column
from layertune.tasks.meanings import check_meanings
from layertune.tasks.rows import DataError, Place, Rows, concatenate, split_off, unlabelled

log = logging.getLogger(__name__)

REDRAW_SEED = 42  # Choice: of the test part drawn where a data set has no official split
_PROBE_SECONDS = 5.0


def read_hub(task: TaskSpec, split: str) -> tuple[Rows, str]:
    """Return the rows of one split and their status.

    Raises:
        DataError: the hub cannot be reached and nothing is cached, or the rows are not what the task says.
    """
    hub = task.hub
    if hub is None:
        raise DataError(f"task={task.name} names no hub source: give its rows with data_dir=<folder>.")
    if hub.pool:
        whole = concatenate([_read_part(task, hub, name, split) for name in hub.pool])
        if hub.test_size is None or hub.test_size >= len(whole):
            raise DataError(f"task {task.name}: hub.test_size={hub.test_size} of {len(whole)} pooled rows.")
        rest, drawn = split_off(whole, hub.test_size, REDRAW_SEED)
        rows = rest if split == task.train_split else drawn
    else:
        rows = _read_part(task, hub, hub.splits.get(split, split), split)
    where = Place(f"{hub.id} ({split})")
    expected = hub.counts.get(split, task.counts.get(split))
    check_counts(rows.labels, task, where, expected, (task.label_counts or {}).get(split))
    return rows, hub.status


def _read_part(task: TaskSpec, hub: HubSource, part: str, split: str) -> Rows:
    data = _load(task, hub, part)
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
        return rows
    names = _label_names(data.features[columns["label"]], hub, where)
    return Rows(
        tuple(text_column(values[name], columns[name], where) for name in task.columns),
        canonical_labels(values["label"], task, where, names=names, strings=hub.label_strings),
    )


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


def _load(task: TaskSpec, hub: HubSource, part: str) -> Any:
    import datasets

    try:
        with _offline_if_unreachable():
            data = datasets.load_dataset(
                hub.id, hub.config, data_files=hub.data_files, split=part, revision=hub.revision
            )
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DataError(
            f"Task {task.name}: {hub.id} at revision {hub.revision or 'main'} cannot be loaded ({reason}). "
            f"Go online or set HF_HOME to a cache that holds it, give a local copy with data_dir=<folder> "
            f"(<folder>/{task.data_name}/train.parquet, csv, tsv or jsonl), or take the built-in task=demo."
        ) from error
    _check_cached_revision(data, hub)
    return data


def _check_cached_revision(data: Any, hub: HubSource) -> None:
    """Refuse another revision: offline, the library takes whichever one its cache got last."""
    if hub.revision is None or not re.fullmatch(r"[0-9a-f]{40}", hub.revision):
        return
    for entry in data.cache_files:
        found = Path(entry["filename"]).parent.name
        if re.fullmatch(r"[0-9a-f]{40}", found) and found != hub.revision:
            raise DataError(
                f"The cache holds {hub.id} at revision {found} and {hub.revision} is pinned: go online once."
            )


@contextmanager
def _offline_if_unreachable() -> Iterator[None]:
    """Switch the library to its cache while the hub does not answer, instead of minutes of retries."""
    import datasets

    if datasets.config.HF_HUB_OFFLINE or _hub_answers(datasets.config.HF_ENDPOINT):
        yield
        return
    log.warning("%s does not answer: looking in the local cache only", datasets.config.HF_ENDPOINT)
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = False


def _hub_answers(endpoint: str) -> bool:
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=_PROBE_SECONDS)
    except Exception as error:  # whatever the HTTP library raises: refused, no such name, timed out
        log.info("no answer from %s: %s", endpoint, error)
        return False
    return True
