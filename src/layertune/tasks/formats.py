"""Tables of a local folder, whatever their format: csv, tsv and jsonl (standard library), parquet (pyarrow).

The same rows give the same table from each format. A file that cannot be read is refused with its line.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from layertune.errors import DataError

_LONGEST_FIELD = 1 << 30  # characters of one csv field; the library's default is shorter than some reviews


@dataclass(frozen=True)
class Table:
    """The rows of one file.

    Attributes:
        names: all columns of the file, in its order.
        columns: [n] values of each column that was read; None where a row has none.
        lines: [n] where each row begins in a text file; empty for a format without lines.
    """

    names: tuple[str, ...]
    columns: dict[str, list[Any]]
    lines: Sequence[int] = ()


def read_table(path: Path, wanted: Sequence[str]) -> Table:
    """Read a file by its suffix; of a parquet file only the columns that are wanted.

    Raises:
        DataError: it is not what its suffix says, or names a column twice.
    """
    return next(_READERS[path.suffix.lower()](path, wanted, None))


def stream_table(path: Path, wanted: Sequence[str], size: int) -> Iterator[Table]:
    """Read a file in tables of `size` rows, the last one shorter, so that it may be larger than memory.

    Raises:
        DataError: as `read_table`, where the rows come that are at fault.
    """
    return _READERS[path.suffix.lower()](path, wanted, size)


def text_of(path: Path) -> str:
    """Return the text of a UTF-8 file without its byte-order mark.

    Raises:
        DataError: the file cannot be read, or a line of it is not UTF-8.
    """
    try:
        content = path.read_bytes()
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line} is not UTF-8: save the file in that encoding.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _named_once(names: Iterable[str], path: Path) -> tuple[str, ...]:
    names = tuple(names)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path} names the column {twice[0]!r} more than once: rename or drop one.")
    return names


def _csv(path: Path, wanted: Sequence[str], size: int | None) -> Iterator[Table]:
    with _opened(path, size) as stream:
        header = stream.readline()
    # Spreadsheets write ; in half of Europe, and some tabs; names may be quoted, with any of them inside.
    delimiter = max(",;\t", key=lambda sign: len(next(csv.reader([header], delimiter=sign), ())))
    return _separated(path, size, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL)


def _tsv(path: Path, wanted: Sequence[str], size: int | None) -> Iterator[Table]:
    return _separated(path, size, delimiter="\t", quoting=csv.QUOTE_NONE)


@contextmanager
def _opened(path: Path, size: int | None) -> Iterator[TextIO]:
    """Open a text file: read whole, so that what is wrong is said with its line, or as a stream."""
    if size is None:
        yield io.StringIO(text_of(path), newline="")
        return
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            yield stream
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: save the file in that encoding.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _separated(path: Path, size: int | None, **dialect: Any) -> Iterator[Table]:
    with _opened(path, size) as stream:
        rows = _rows_with_lines(path, stream, dialect)
        _, header = next(rows, (1, []))
        if not header:
            raise DataError(f"{path} is empty: its first line names the columns.")
        names = _named_once(header, path)
        for some in _parts(rows, size):
            for line, row in some:
                if len(row) != len(names):
                    raise DataError(
                        f"{path}: line {line} has {len(row)} fields and the header has {len(names)}."
                    )
            columns = zip(*(row for _, row in some), strict=True) if some else ([] for _ in names)
            found = {name: list(column) for name, column in zip(names, columns, strict=True)}
            yield Table(names, found, [line for line, _ in some])


def _parts(rows: Iterator[Any], size: int | None) -> Iterator[list[Any]]:
    """Yield rows in lists of `size`, the last one shorter; None = all in one, which may be empty."""
    if size is None:
        yield list(rows)
        return
    while some := list(islice(rows, size)):
        yield some


def _rows_with_lines(path: Path, stream: TextIO, dialect: dict[str, Any]) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not blank, each with the line where it begins."""
    limit = csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(stream, strict=True, **dialect)
    line = 1
    try:
        for row in reader:
            if len(row) > 1 or any(field.strip() for field in row):
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: the row at line {line} is not {path.suffix[1:]} ({error}): a text with quotes in it "
            'is written "so ""quoted"" once more".'
        ) from error
    finally:
        csv.field_size_limit(limit)


def _jsonl(path: Path, wanted: Sequence[str], size: int | None) -> Iterator[Table]:
    with _opened(path, size) as stream:
        for some in _parts(_objects(path, stream), size):
            names = tuple(dict.fromkeys(name for _, each in some for name in each))
            found = {name: [each.get(name) for _, each in some] for name in wanted if name in names}
            yield Table(names, found, [number for number, _ in some])


def _objects(path: Path, stream: TextIO) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: line {number} is not a JSON object ({error}).") from error
        if not isinstance(found, dict):
            raise DataError(f"{path}: line {number} is not a JSON object.")
        yield number, found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} comes more than once")
    return found


def _parquet(path: Path, wanted: Sequence[str], size: int | None) -> Iterator[Table]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:  # not read_table, which makes columns of folders called `key=value`
            names = _named_once(file.schema_arrow.names, path)
            kept = [name for name in wanted if name in names]
            if size is None:
                yield Table(names, file.read(kept).to_pydict())
                return
            for batch in file.iter_batches(size, columns=kept):
                yield Table(names, batch.to_pydict())
    except DataError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path} is not a complete parquet file ({error}): fetch it again.") from error


_READERS: dict[str, Callable[[Path, Sequence[str], int | None], Iterator[Table]]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
}
