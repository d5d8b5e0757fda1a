"""The record: its keys, its round trip, what it refuses to read, and that it is written whole or not."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from layertune.config import RunConfig
from layertune.records import Record, RecordError, read_record
from layertune.records.record import ChecksRecord

GOLDEN = Path(__file__).parents[1] / "golden" / "record_keys.json"

MakeRun = Callable[..., RunConfig]
MakeRecord = Callable[..., Record]


@pytest.fixture
def record(make_run: MakeRun, make_record: MakeRecord) -> Record:
    return make_record(make_run())


def _fields(cls: type, prefix: str = "") -> dict[str, str]:
    """Return every key of the schema, in order, with its type as written."""
    found: dict[str, str] = {}
    for field in dataclasses.fields(cls):
        hint = get_type_hints(cls)[field.name]
        section = next((arg for arg in (hint, *get_args(hint)) if dataclasses.is_dataclass(arg)), None)
        found[prefix + field.name] = str(field.type)
        if section is not None:
            found |= _fields(section, f"{prefix}{field.name}.")
    return found


def _written(record: Record, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    tree = json.loads(record.to_json())
    change(tree)
    path.write_text(json.dumps(tree))
    return path


def test_the_keys_and_types_of_schema_1_are_the_golden_ones() -> None:
    # A key or type that changes breaks the records people have: change SCHEMA, then this file, on purpose.
    golden = json.loads(GOLDEN.read_text())
    assert list(_fields(Record).items()) == list(golden.items())


def test_the_json_holds_the_keys_of_the_schema_in_order(record: Record) -> None:
    golden = list(json.loads(GOLDEN.read_text()))
    sections = {key.rsplit(".", 1)[0] for key in golden if "." in key}

    def keys(tree: dict[str, Any], prefix: str = "") -> list[str]:
        found = []
        for key, value in tree.items():
            found.append(prefix + key)
            if prefix + key in sections:
                found += keys(value, f"{prefix}{key}.")
        return found

    assert keys(json.loads(record.to_json())) == golden


def test_a_record_survives_writing_and_reading(record: Record, tmp_path: Path) -> None:
    path = record.write(tmp_path / "runs" / "r.json")
    assert path == tmp_path / "runs" / "r.json"
    assert read_record(path) == record
    assert [entry.name for entry in path.parent.iterdir()] == ["r.json"]
    assert path.stat().st_mode & 0o777 == 0o644  # not the 0600 of a temporary file


def test_a_failed_run_without_sections_survives_writing_and_reading(record: Record, tmp_path: Path) -> None:
    sections = dict.fromkeys(
        ("env", "data", "model", "selection", "training", "metrics", "checks", "tracking"), None
    )
    failed = dataclasses.replace(record, status="failed", error="Traceback …\nValueError: é", **sections)
    assert read_record(failed.write(tmp_path / "r.json")) == failed


def test_text_is_kept_as_it_is_and_the_file_ends_with_a_line_end(record: Record, tmp_path: Path) -> None:
    text = record.write(tmp_path / "r.json").read_text(encoding="utf-8")
    assert "négatif" in text
    assert text.endswith("}\n")


def test_numbers_that_are_not_finite_become_null_and_read_back(record: Record, tmp_path: Path) -> None:
    assert record.selection is not None and record.training is not None
    nan, inf = float("nan"), float("inf")
    diverged = dataclasses.replace(
        record,
        status="failed",
        selection=dataclasses.replace(
            record.selection, scores=(nan, 0.5), std=(inf, 0.1), matrix=((nan, -inf), (1.0, 0.0))
        ),
        training=dataclasses.replace(record.training, history=({"epoch": 1, "loss": nan},)),
    )
    path = diverged.write(tmp_path / "r.json")
    for word in ("NaN", "Infinity"):
        assert word not in path.read_text()
    read = read_record(path)
    assert read.selection is not None and read.training is not None
    assert read.selection.scores == (None, 0.5)
    assert read.selection.std == (None, 0.1)
    assert read.selection.matrix == ((None, None), (1.0, 0.0))
    assert read.training.history == ({"epoch": 1, "loss": None},)


def test_an_unknown_key_is_refused_by_name_and_file(record: Record, tmp_path: Path) -> None:
    path = _written(record, tmp_path / "r.json", lambda tree: tree["training"].update(sedonds=1.0))
    with pytest.raises(RecordError, match=r"r\.json is not a valid record: training\.sedonds does not exist"):
        read_record(path)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("training", "steps", "eight"),
        ("training", "steps", 8.5),
        ("training", "seconds", True),
        ("selection", "layers", [1, "2"]),
        ("selection", "reused", 1),
        ("checks", "loss_finite", "yes"),
        ("data", "counts", [1, 2]),
        ("spec", "seed", None),
    ],
)
def test_a_wrong_type_is_refused_by_key_and_file(
    record: Record, tmp_path: Path, section: str, key: str, value: Any
) -> None:
    path = _written(record, tmp_path / "r.json", lambda tree: tree[section].update({key: value}))
    with pytest.raises(RecordError, match=rf"r\.json is not a valid record: {section}\.{key}"):
        read_record(path)


def test_an_unknown_status_is_refused(record: Record, tmp_path: Path) -> None:
    path = _written(record, tmp_path / "r.json", lambda tree: tree.update(status="finished"))
    with pytest.raises(RecordError, match=r"r\.json.*done \| failed \| oom \| interrupted"):
        read_record(path)


def test_a_missing_key_is_refused(record: Record, tmp_path: Path) -> None:
    path = _written(record, tmp_path / "r.json", lambda tree: tree["spec"].pop("seed"))
    with pytest.raises(RecordError, match=r"r\.json is not a valid record: .*seed"):
        read_record(path)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_file_cut_off_is_refused_and_says_what_to_do(record: Record, tmp_path: Path, part: float) -> None:
    path = tmp_path / "r.json"
    content = record.to_json().encode()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(RecordError, match=r"r\.json is not a complete record .*force=true"):
        read_record(path)


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match=r"r\.json is not a complete record"):
        read_record(path)


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema_is_refused_before_its_keys_are_looked_at(
    record: Record, tmp_path: Path, schema: Any
) -> None:
    path = _written(record, tmp_path / "r.json", lambda tree: tree.update(schema=schema, new_key=1))
    with pytest.raises(RecordError, match=rf"r\.json has schema {schema!r}; this version reads schema 1"):
        read_record(path)


def test_json_that_is_not_a_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("[1, 2]")
    with pytest.raises(RecordError, match=r"r\.json has schema 'list'"):
        read_record(path)


def _full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["fsync", "fdopen", "replace"])
def test_a_full_disk_leaves_the_earlier_record_and_no_temporary_file(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = record.write(tmp_path / "r.json")
    before = path.read_bytes()
    if call == "fdopen":  # the write itself fails, after the file was opened

        class Full:
            def __init__(self, handle: int, _mode: str) -> None:
                self.handle = handle

            def __enter__(self) -> Full:
                return self

            def __exit__(self, *_: Any) -> None:
                os.close(self.handle)

            write = _full

        monkeypatch.setattr(os, "fdopen", Full)
    elif call == "fsync":
        monkeypatch.setattr(os, "fsync", _full)
    else:
        monkeypatch.setattr(Path, "replace", _full)
    with pytest.raises(OSError, match="No space left"):
        dataclasses.replace(record, status="failed").write(path)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]


def test_a_false_check_is_a_failure_unless_it_is_null_or_only_a_fact() -> None:
    checks = ChecksRecord(
        frozen_unchanged=False,
        trained_changed=True,
        loss_finite=None,
        trainable_matches_selection=False,
        beats_majority=False,
    )
    assert checks.failures() == ["frozen_unchanged", "trainable_matches_selection"]
    assert ChecksRecord(True, True, True, None, False).failures() == []


def test_trainable_parameters_are_added_up_with_and_without_what_training_measured(
    record: Record, tmp_path: Path
) -> None:
    model = record.model
    assert model is not None and model.num_trainable == 234 and model.facts == {}
    measured = dataclasses.replace(
        model, trainable={**model.trainable, "at_once": 134, "touched": 534}, facts={"layer_order": [2, 1]}
    )
    newer = dataclasses.replace(record, model=measured)
    read = read_record(newer.write(tmp_path / "newer.json"))
    assert read.model is not None and read.model.num_trainable == 234
    assert (read.model.trainable["touched"], read.model.facts["layer_order"]) == (534, (2, 1))
    older = json.loads(record.to_json())
    del older["model"]["facts"], older["metrics"]["outputs"]  # as the first records have it
    (tmp_path / "older.json").write_text(json.dumps(older))
    assert read_record(tmp_path / "older.json") == record
