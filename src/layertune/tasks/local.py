"""Rows of one split from a local folder: `<task>/<split>.parquet`, csv, tsv or jsonl.

A `manifest.json` beside the folders says what the files are, and they are checked against it. csv, tsv and
jsonl need the standard library alone, parquet needs pyarrow. An E2E csv may be as the challenge hands it out:
columns `mr` and `ref`, and £ and é as an earlier conversion left them, which is repaired.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layertune.config import TaskSpec
from layertune.config.files import file_sha256, local_split_file
from layertune.tasks.labels import canonical_labels, check_counts, text_column
from layertune.tasks.meanings import check_meanings
from layertune.tasks.rows import DataError, Rows, unlabelled

log = logging.getLogger(__name__)

LABEL = "label"
UNLISTED = "local"  # status of a file that no manifest vouches for
_LONGEST_FIELD = 1 << 30  # characters of one csv field; the library's default is shorter than some reviews

_OFFICIAL_COLUMNS = ("mr", "ref")  # of the E2E challenge, in the order of `task.columns`
_REPAIRS = {"Â£": "£", "Ł": "£", "Ã©": "é", "ã©": "é"}  # those of the challenge's own scripts

Table = dict[str, list[Any]]  # column -> values


def read_local(folder: Path, task: TaskSpec, split: str) -> tuple[Rows, str]:
    """Return the rows of one split and their status (`official`, `subset`, ...; `local` without a manifest).

    Integer labels are in the order of the manifest's `label_names`, without them in the task's own order.

    Raises:
        ConfigError: there is no such file.
        DataError: the file cannot be read, or is not what the task and the manifest say.
    """
    path = local_split_file(folder, task.data_name, split)
    facts = _manifest_entry(folder, path)
    if "sha256" in facts and (digest := file_sha256(path)) != facts["sha256"]:
        raise DataError(
            f"{path} has sha256 {digest} and manifest.json says {facts['sha256']}: not the announced file."
        )
    table = _READERS[path.suffix](path)
    generated = task.kind == "generation"  # both sides are text, nothing is labelled
    if generated and path.suffix == ".csv":
        table = _repaired(table, task)
    wanted = [*task.columns] if generated else [*task.columns, LABEL]
    if missing := [column for column in wanted if column not in table]:
        raise DataError(
            f"{path} has no column {' or '.join(missing)}: it needs {', '.join(wanted)} "
            f"and has {', '.join(table) or 'none'}."
        )
    if extra := [column for column in table if column not in wanted]:
        log.warning("%s: columns not used: %s", path, ", ".join(extra))
    names = facts.get("label_names") or ()
    texts = tuple(text_column(table[column], column, str(path)) for column in task.columns)
    if generated:
        rows = unlabelled(texts)
        check_counts(rows.labels, task, str(path), facts.get("rows"), None)
        check_meanings(rows, str(path), facts.get("unique_meaning_representations"))
        return rows, facts.get("status", UNLISTED)
    labels = canonical_labels(table[LABEL], task, str(path), names=names)
    counts = facts.get("label_counts")
    numbered = dict(enumerate(names or task.labels))
    histogram = counts and {numbered.get(int(number), number): count for number, count in counts.items()}
    check_counts(labels, task, str(path), facts.get("rows"), histogram)
    return Rows(texts, labels), facts.get("status", UNLISTED)


def _manifest_entry(folder: Path, path: Path) -> dict[str, Any]:
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return {}
    try:
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        return dict(files.get(path.relative_to(folder).as_posix(), {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{manifest} cannot be read ({error}): "
            'it holds {"files": {"<task>/<split>.<suffix>": {...}}}.'
        ) from error


def _repaired(table: Table, task: TaskSpec) -> Table:
    """Return an E2E csv under the task's column names, £ and é repaired as the challenge's scripts do."""
    names = dict(zip(_OFFICIAL_COLUMNS, task.columns, strict=False))
    names = {old: new for old, new in names.items() if new not in table}
    return {names.get(column, column): [_mended(text) for text in texts] for column, texts in table.items()}


def _mended(text: str) -> str:
    for broken, right in _REPAIRS.items():
        text = text.replace(broken, right)
    return text


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a complete parquet file ({error}): fetch it again.") from error


def _read_csv(path: Path) -> Table:
    return _read_separated(path, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def _read_tsv(path: Path) -> Table:
    return _read_separated(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read_separated(path: Path, **dialect: Any) -> Table:
    limit = csv.field_size_limit(_LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True, **dialect)
            header = next(reader, [])
            table: Table = {column: [] for column in header}
            for row in reader:
                if len(row) != len(header):
                    raise DataError(
                        f"{path}: line {reader.line_num} has {len(row)} fields "
                        f"and the header has {len(header)}."
                    )
                for column, value in zip(header, row, strict=True):
                    table[column].append(value)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 {path.suffix[1:]} ({error}).") from error
    finally:
        csv.field_size_limit(limit)
    return table


def _read_jsonl(path: Path) -> Table:
    records: list[dict[str, Any]] = []
    number = 0  # of the line being read
    try:
        with path.open(encoding="utf-8") as stream:
            for line in stream:
                number += 1
                if line.strip():
                    records.append(json.loads(line))
                    if not isinstance(records[-1], dict):
                        raise ValueError("not an object")
    except ValueError as error:
        raise DataError(f"{path}: line {number} is not a JSON object in UTF-8 ({error}).") from error
    columns = list(records[0]) if records else []
    for number, record in enumerate(records, start=1):
        if missing := [column for column in columns if column not in record]:
            raise DataError(f"{path}: object {number} has no {' or '.join(missing)}.")
    return {column: [record[column] for record in records] for column in columns}


_READERS: dict[str, Callable[[Path], Table]] = {
    ".parquet": _read_parquet,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
}
