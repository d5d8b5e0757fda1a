"""Rows of one split from a local folder: `<task>/<split>.parquet`, csv, tsv or jsonl.

A `manifest.json` beside the folders says what the files are, and they are checked against it. An E2E csv may
be as the challenge hands it out: columns `mr` and `ref`, and £ and é as an earlier conversion left them (they
are repaired).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, NonNegativeInt, StringConstraints, ValidationError

from layertune.config import TaskSpec
from layertune.config.files import file_sha256, local_split_file
from layertune.errors import DataError
from layertune.tasks.formats import Table, read_table, text_of
from layertune.tasks.labels import canonical_labels, check_counts, text_column
from layertune.tasks.meanings import check_meanings
from layertune.tasks.rows import Place, Rows, unlabelled

log = logging.getLogger(__name__)

LABEL = "label"
UNLISTED = "local"  # status of a file that no manifest vouches for
_NAMES_SHOWN = 8  # of columns that are not used

# Choice: [E2E, csv files] they are read as the challenge hands them out.
_OFFICIAL_COLUMNS = ("mr", "ref")  # of the E2E challenge, in the order of `task.columns`
_REPAIRS = {"Â£": "£", "Ł": "£", "Ã©": "é", "ã©": "é"}  # those of the challenge's own scripts


class _Manifest(BaseModel):
    """`manifest.json`: what it says of each file is read for the files of a run alone."""

    files: dict[str, Any]


class _Announced(BaseModel, strict=True):
    """What a manifest says of one file; further keys are for people."""

    status: Annotated[str, StringConstraints(pattern=r"^[\w.+ -]{1,100}$")] = UNLISTED
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    rows: NonNegativeInt | None = None
    label_names: list[str] = Field(default_factory=list)
    label_counts: dict[str, NonNegativeInt] | None = None
    unique_meaning_representations: NonNegativeInt | None = None


def read_local(folder: Path, task: TaskSpec, split: str) -> tuple[Rows, str]:
    """Return the rows of one split and their status (`official`, `subset`, ...; `local` without a manifest).

    Integer labels are in the order of the manifest's `label_names`, without them in the task's own order.

    Raises:
        ConfigError: there is no such file.
        DataError: the file cannot be read, or is not what the task and the manifest say.
    """
    path = local_split_file(folder, task.data_name, split)
    announced = _announced(folder, path)
    if announced.sha256 is not None and (digest := file_sha256(path)) != announced.sha256:
        raise DataError(
            f"{path} has sha256 {digest} and manifest.json says {announced.sha256}: not the announced file."
        )
    generated = task.kind == "generation"  # both sides are text, nothing is labelled
    wanted = [*task.columns] if generated else [*task.columns, LABEL]
    table = read_table(path, wanted)
    if generated and path.suffix == ".csv":
        table = _repaired(table, task)
    if missing := [column for column in wanted if column not in table.names]:
        raise DataError(
            f"{path} has no column {' or '.join(missing)}: it needs {', '.join(wanted)} "
            f"and has {_listed(table.names) or 'none'}."
        )
    if extra := [column for column in table.names if column not in wanted]:
        log.warning("%s: columns not used: %s", path, _listed(extra))
    place = Place(str(path), table.lines)
    texts = tuple(text_column(table.columns[column], column, place) for column in task.columns)
    if generated:
        rows = unlabelled(texts)
        check_counts(rows.labels, task, place, announced.rows, None)
        check_meanings(rows, place, announced.unique_meaning_representations)
        return rows, announced.status
    labels = canonical_labels(table.columns[LABEL], task, place, names=announced.label_names)
    check_counts(labels, task, place, announced.rows, _histogram(announced, task, path))
    return Rows(texts, labels), announced.status


def _announced(folder: Path, path: Path) -> _Announced:
    manifest, name = folder / "manifest.json", path.relative_to(folder).as_posix()
    if not manifest.is_file():
        return _Announced()
    at: tuple[str, ...] = ()
    try:
        files = _Manifest.model_validate_json(text_of(manifest)).files
        at = ("files", name)
        return _Announced.model_validate(files.get(name, {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, (*at, *first["loc"])))
        given = f"{key} is {first['input']!r}: " if key else ""
        said = first["msg"].partition(" or instance of")[0]
        raise DataError(f"{manifest}: {given}{said}.") from error


def _histogram(announced: _Announced, task: TaskSpec, path: Path) -> dict[str, int] | None:
    """Return the announced rows by label name; the manifest may number the labels as the file does."""
    if announced.label_counts is None:
        return None
    if task.kind != "classification":
        raise DataError(f"manifest.json gives label_counts for {path}, and task {task.name} has no labels.")
    numbered = {str(number): name for number, name in enumerate(announced.label_names or task.labels)}
    return {numbered.get(label, label): count for label, count in announced.label_counts.items()}


def _repaired(table: Table, task: TaskSpec) -> Table:
    """Return an E2E csv under the task's column names, £ and é repaired as the challenge's scripts do."""
    names = dict(zip(_OFFICIAL_COLUMNS, task.columns, strict=False))
    names = {old: new for old, new in names.items() if new not in table.names}
    columns = {
        names.get(column, column): [_mended(text) for text in texts]
        for column, texts in table.columns.items()
    }
    return Table(tuple(columns), columns, table.lines)


def _mended(text: str) -> str:
    for broken, right in _REPAIRS.items():
        text = text.replace(broken, right)
    return text


def _listed(names: Any) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(name[:40] for name in names[:_NAMES_SHOWN]) + more
