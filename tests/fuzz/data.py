"""Data folders: whatever the files of a task and their manifest hold, a run gets its rows or one sentence.

The sentence is a ConfigError on one line; that of a file which cannot be read as rows names the file.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from layertune.config import RunConfig
from layertune.config.compose import compose_run
from layertune.errors import ConfigError
from layertune.models import load_tokenizer
from layertune.tasks import load_task

from . import in_folders

TASKS = {
    "sst2": "tiny_bert",
    "trec": "tiny_gpt2",
    "mrpc": "tiny_bert",
    "stsb": "tiny_bert",
    "e2e": "tiny_gpt2",
    "own": "tiny_bert",
}
PROTOCOLS = ("smoke", "search")
LONGEST_SENTENCE = 1500  # characters of a message
NESTED = 100_000

Row = dict[str, Any]


def run(cases: int, seed: int) -> list[str]:
    """Write one data folder per case, damage it in up to three places, and load it as a run does."""
    return in_folders(cases, seed, _load)


def _load(folder: Path, rng: Random, done: list[str]) -> str | None:
    """Build one folder and load it; return what is wrong with the answer, None where it is right."""
    task, protocol = rng.choice(list(TASKS)), rng.choice(PROTOCOLS)
    run = replace(_composed(task, protocol), data_dir=str(folder / "data"), outputs_dir=str(folder / "out"))
    done += [task, protocol]
    (folder / "data" / task).mkdir(parents=True)
    listed, paths = {}, []
    for split in filter(None, (run.task.train_split, run.task.dev_split, run.task.eval_split)):
        paths.append(_write_split(folder / "data" / task / split, run, rng, done))
        listed[paths[-1].relative_to(folder / "data").as_posix()] = _entry(run, rng, done)
    if task == "own":
        evaluated = str(paths[1]) if rng.random() < 0.5 else None
        run = replace(run, own=replace(run.own, train=str(paths[0]), eval=evaluated))
    if rng.random() < 0.5:
        (folder / "data" / "manifest.json").write_bytes(_manifest(listed, rng, done))
    try:
        load_task(run, *_tokenizer(task))
    except ConfigError as error:
        said = str(error)
        if not said.strip() or len(said.splitlines()) != 1:
            return f"not one line: {said!r}"
        if len(said) > LONGEST_SENTENCE:
            return f"a sentence of {len(said):,} characters: {said}"
        if str(folder) not in said and "protocol=" not in said:
            return f"names no file: {said}"
    return None


@cache
def _composed(task: str, protocol: str) -> RunConfig:
    with tempfile.NamedTemporaryFile(suffix=".csv") as file:  # task=own asks for one
        return compose_run(
            f"model={TASKS[task]}",
            f"task={task}",
            "method=low_k",
            f"protocol={protocol}",
            "task.max_length=64",
            "task.decoding.max_new_tokens=8",
            f"own.train={file.name}",
        )


@cache
def _tokenizer(task: str) -> tuple[Any, str]:
    return load_tokenizer(_composed(task, "smoke").model)


# --- rows


def _rows(run: RunConfig, rng: Random) -> list[Row]:
    task, rows = run.task, []
    for number in range(rng.choice((1, 2, 12, 30))):
        row: Row = {column: f"{rng.choice(_TEXTS)} {number}" for column in task.columns}
        if task.kind == "regression":
            row["label"] = round(rng.uniform(0, 5), 2)
        elif task.kind == "classification":
            names = task.labels or ("no", "yes")  # those of task=own are found
            row["label"] = rng.choice((number % len(names), rng.choice(names)))
        rows.append(row)
    return rows


_TEXTS = ("a good film", 'he said "no"', "one, two", "", "naïve – 映画 😀", " spaced ", "name[it], area[pub]")

_VALUES: tuple[Any, ...] = (
    None, True, 1.0, 1.5, -1, 10**400, float("nan"), float("inf"), "", " ", "1_0", "nan", "1e999", "٣",
    "\ud83d", "\x00", "a\u2028b", "\r", "\n", '"', [], {}, [["x"]], {"a": None}, "x" * 200_000, b"\xff".hex(),
)  # fmt: skip


def _spoil_rows(rows: list[Row], rng: Random) -> str:
    row = rng.choice(rows)
    column = rng.choice(list(row))
    kind = rng.choice(("value", "missing", "extra", "all"))
    value = rng.choice(_VALUES)
    if kind == "value":
        row[column] = value
    elif kind == "missing":
        del row[column]
    elif kind == "extra":
        row[rng.choice(("note", "", "\ud83d", "x" * 5000, "a\nb"))] = value
    else:
        for each in rows:
            each[column] = value
    return f"{kind} {column}={str(value)[:12]!r}"


# --- files


def _write_split(stem: Path, run: RunConfig, rng: Random, done: list[str]) -> Path:
    rows = _rows(run, rng)
    if rng.random() < 0.4:
        done.append(_spoil_rows(rows, rng))
    suffix = rng.choice(list(_WRITERS))
    names = list(dict.fromkeys(name for row in rows for name in row))
    content = _WRITERS[suffix](rows, names, rng)
    if rng.random() < 0.5:
        name, spoil = rng.choice(_DAMAGE)
        content = spoil(content, rng)
        done.append(f"{suffix} {name}")
    path = stem.with_name(stem.name + suffix)
    path.write_bytes(content)
    return path


def _separated(rows: list[Row], names: list[str], rng: Random, delimiter: str) -> bytes:
    stream = io.StringIO()
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)) if delimiter == "," else csv.QUOTE_MINIMAL
    writer = csv.writer(
        stream, delimiter=delimiter, quoting=quoting, lineterminator=rng.choice(("\n", "\r\n"))
    )
    header = list(names)
    if rng.random() < 0.1:
        header = header[:-1] + header[:1]  # a name comes twice
    writer.writerow(header)
    writer.writerows([row.get(name, "") for name in names] for row in rows)
    return stream.getvalue().encode("utf-8", "surrogatepass")


def _jsonl(rows: list[Row], names: list[str], rng: Random) -> bytes:
    ascii_only = rng.random() < 0.5
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    if rng.random() < 0.1:
        lines[rng.randrange(len(lines))] = rng.choice(
            (
                "[" * NESTED,
                '{"a":' * NESTED,
                "[]",
                "1",
                "null",
                '{"label": 0, "label": 1}',
                '{"a" 1}',
                "9" * 5000,
            )
        )
    return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")


def _parquet(rows: list[Row], names: list[str], rng: Random) -> bytes:
    import pyarrow
    import pyarrow.parquet

    columns = [[row.get(name) for row in rows] for name in names]
    try:
        table = pyarrow.table([pyarrow.array(column) for column in columns], names=names)
        if rng.random() < 0.1:
            table = table.append_column(rng.choice(names), table.column(0))  # a name comes twice
        if rng.random() < 0.2:
            kind = rng.choice(
                (
                    pyarrow.large_string(),
                    pyarrow.binary(),
                    pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
                )
            )
            table = table.set_column(0, names[0], table.column(0).cast(kind))
        sink = io.BytesIO()
        pyarrow.parquet.write_table(table, sink)
    except (
        pyarrow.ArrowException,
        UnicodeError,
        OverflowError,
        ValueError,
    ):  # parquet cannot hold such values
        return _jsonl(rows, names, rng)
    return sink.getvalue()


_WRITERS: dict[str, Callable[[list[Row], list[str], Random], bytes]] = {
    ".csv": lambda rows, names, rng: _separated(rows, names, rng, ","),
    ".tsv": lambda rows, names, rng: _separated(rows, names, rng, "\t"),
    ".jsonl": _jsonl,
    ".parquet": _parquet,
}


def _somewhere(content: bytes, rng: Random, inserted: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + inserted + content[place:]


def _flipped(content: bytes, rng: Random) -> bytes:
    if not content:
        return content
    changed = bytearray(content)
    for _ in range(rng.choice((1, 5))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


_DAMAGE: tuple[tuple[str, Callable[[bytes, Random], bytes]], ...] = (
    ("byte-order mark", lambda content, rng: b"\xef\xbb\xbf" + content),
    ("two byte-order marks", lambda content, rng: b"\xef\xbb\xbf" * 2 + content),
    ("utf-16", lambda content, rng: content.decode("utf-8", "replace").encode("utf-16")),
    ("latin-1", lambda content, rng: content.decode("utf-8", "replace").encode("latin-1", "replace")),
    ("empty", lambda content, rng: b""),
    ("header only", lambda content, rng: content.split(b"\n")[0] + b"\n"),
    ("cut off", lambda content, rng: content[: rng.randrange(len(content) + 1)]),
    ("flipped bits", _flipped),
    ("blank lines", lambda content, rng: content.replace(b"\n", b"\n\n")),
    ("blank last lines", lambda content, rng: content + rng.choice((b"\n", b"\n\n", b"  \n", b"\r\n"))),
    ("blank first line", lambda content, rng: b"\n" + content),
    ("stray quote", lambda content, rng: _somewhere(content, rng, b'"')),
    ("stray delimiter", lambda content, rng: _somewhere(content, rng, rng.choice((b",", b"\t", b"}")))),
    ("zero byte", lambda content, rng: _somewhere(content, rng, b"\x00")),
    ("carriage return", lambda content, rng: _somewhere(content, rng, b"\r")),
    ("not utf-8", lambda content, rng: _somewhere(content, rng, b"\xff\xfe")),
    ("lone surrogate", lambda content, rng: _somewhere(content, rng, b"\\ud83d")),
    ("deep nesting", lambda content, rng: content + b"[" * NESTED + b"\n"),
)  # fmt: skip


# --- the manifest


def _entry(run: RunConfig, rng: Random, done: list[str]) -> Any:
    entry: dict[str, Any] = {"status": "own-split"}
    if rng.random() < 0.3:
        entry["label_names"] = list(run.task.labels)
    if rng.random() < 0.4:
        key, value = rng.choice(_FIELDS), rng.choice(_FACTS)
        done.append(f"manifest {key}={str(value)[:20]}")
        entry[key] = value
    return entry if rng.random() < 0.95 else rng.choice(_FACTS)


_FIELDS = (
    "rows",
    "status",
    "sha256",
    "label_names",
    "label_counts",
    "unique_meaning_representations",
    "else",
)
_FACTS: tuple[Any, ...] = (
    None, True, 0, 1, -3, 12, 1.5, 10**30, float("nan"), "", "12", "a\nb", "\ud83d", "x" * 5000, [], {},
    ["negative", "positive"], ["positive", "positive"], [["negative"]], [1, 2], {"0": 1, "1": 1}, {"x": 1},
    {"0": "1"}, {"0": None}, {"negative": 6, "positive": 6}, {"-1": 1}, {"1e3": 2}, {"²": 2}, "0" * 64,
)  # fmt: skip


def _manifest(listed: dict[str, Any], rng: Random, done: list[str]) -> bytes:
    content: Any = {"files": listed}
    text = json.dumps(content)
    kind = rng.choice(("right", "right", "right", "other", "nested", "damaged"))
    if kind == "other":
        text = json.dumps(rng.choice((*_FACTS, {"files": rng.choice(_FACTS)}, {"files": [listed]}, listed)))
    elif kind == "nested":
        text = rng.choice(("[", '{"files":')) * NESTED
    if kind != "right":
        done.append(f"manifest {kind}")
    encoded = text.encode("utf-8", "surrogatepass")
    return rng.choice(_DAMAGE)[1](encoded, rng) if kind == "damaged" else encoded
