"""The record: its keys, its round trip, what it refuses to read, and that it is written whole or not."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from layertune.config import RunConfig
from layertune.errors import RecordError
from layertune.records import Record, read_record
from layertune.records.record import ChecksRecord, Status

GOLDEN = Path(__file__).parents[1] / "golden" / "record_keys.json"

MakeRun = Callable[..., RunConfig]
MakeRecord = Callable[..., Record]


@pytest.fixture
def record(make_run: MakeRun, make_record: MakeRecord) -> Record:
    return make_record(make_run())


def _fields(cls: type, prefix: str = "") -> dict[str, str]:
    """Return every key of the schema, in order, with its type; the range of its values aside."""
    found: dict[str, str] = {}
    for name, hint in get_type_hints(cls).items():
        section = next((arg for arg in (hint, *get_args(hint)) if dataclasses.is_dataclass(arg)), None)
        found[prefix + name] = _spelled(hint)
        if section is not None:
            found |= _fields(section, f"{prefix}{name}.")
    return found


def _spelled(hint: Any) -> str:
    """Return a type as one writes it: `tuple[float | None, ...]`."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint == Status:
        return "Status"
    if origin in (Union, UnionType):
        return " | ".join(map(_spelled, parts))
    if origin is None:
        return {type(None): "None", ...: "..."}.get(hint, getattr(hint, "__name__", str(hint)))
    return f"{origin.__name__}[{', '.join(map(_spelled, parts))}]"


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


def test_numbers_that_are_not_finite_or_endless_become_null_and_read_back(
    record: Record, tmp_path: Path
) -> None:
    assert record.selection is not None and record.training is not None
    nan, inf = float("nan"), float("inf")
    diverged = dataclasses.replace(
        record,
        status="failed",
        selection=dataclasses.replace(
            record.selection, scores=(nan, 0.5), std=(inf, 0.1), matrix=((nan, -inf), (1.0, 0.0))
        ),
        training=dataclasses.replace(
            record.training, history=({"epoch": 1, "loss": nan, "perplexity": 1e300},)
        ),
    )
    path = diverged.write(tmp_path / "r.json")
    for word in ("NaN", "Infinity"):
        assert word not in path.read_text()
    read = read_record(path)
    assert read.selection is not None and read.training is not None
    assert read.selection.scores == (None, 0.5)
    assert read.selection.std == (None, 0.1)
    assert read.selection.matrix == ((None, None), (1.0, 0.0))
    assert read.training.history == ({"epoch": 1, "loss": None, "perplexity": None},)


def test_an_unknown_key_is_refused_by_name_and_file(record: Record, tmp_path: Path) -> None:
    path = _written(record, tmp_path / "r.json", lambda tree: tree["training"].update(sedonds=1.0))
    with pytest.raises(RecordError, match=r"r\.json .*valid.*training\.sedonds"):
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
    with pytest.raises(RecordError, match=rf"r\.json .*valid.*{section}\.{key}"):
        read_record(path)


def test_an_unknown_status_is_refused(record: Record, tmp_path: Path) -> None:
    path = _written(record, tmp_path / "r.json", lambda tree: tree.update(status="finished"))
    with pytest.raises(RecordError, match=r"r\.json.*status='finished'.*interrupted"):
        read_record(path)


def test_a_missing_key_is_refused(record: Record, tmp_path: Path) -> None:
    path = _written(record, tmp_path / "r.json", lambda tree: tree["spec"].pop("seed"))
    with pytest.raises(RecordError, match=r"r\.json .*valid.*seed"):
        read_record(path)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_a_file_cut_off_is_refused_and_says_what_to_do(record: Record, tmp_path: Path, part: float) -> None:
    path = tmp_path / "r.json"
    content = record.to_json().encode()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(RecordError, match=r"r\.json .*complete.*force=true"):
        read_record(path)


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match=r"r\.json .*complete"):
        read_record(path)


@pytest.mark.parametrize("schema", [0, 2, "1", None])
def test_another_schema_is_refused_before_its_keys_are_looked_at(
    record: Record, tmp_path: Path, schema: Any
) -> None:
    path = _written(record, tmp_path / "r.json", lambda tree: tree.update(schema=schema, new_key=1))
    with pytest.raises(RecordError, match=rf"r\.json .*schema {schema!r}; .*schema 1"):
        read_record(path)


def test_json_that_is_not_a_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text("[1, 2]")
    with pytest.raises(RecordError, match=r"r\.json .*list"):
        read_record(path)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("metrics.last.demo.accuracy", "95.0"),
        ("metrics.last.demo.accuracy", "-0.1"),
        ("metrics.best.demo.accuracy", "true"),
        ("metrics.last.demo.mcc", "-1.5"),
        ("metrics.last.demo.loss", "1e308"),
        ("metrics.last.demo", "0.5"),
        ("metrics.best.epoch", "null"),
        ("training.seconds", "NaN"),
        ("training.seconds", "-Infinity"),
        ("training.seconds", "1e308"),
        ("training.seconds", "-1.0"),
        ("training.seconds_per_step_median", "0.0"),
        ("training.history", '[{"epoch": 1, "loss": NaN}]'),
        ("training.history", '[{"epoch": 1, "loss": 1e308}]'),
        ("training.batch_size", "0"),
        ("training.steps", "1" + "0" * 400),
        ("training.steps", "1" + "0" * 5000),
        ("config.seed", "1" + "0" * 400),
        ("selection.scores", "[0.5]"),
        ("selection.layers", "[0, 1]"),
        ("data.counts", '{"demo": 32}'),
        ("model.trainable", '{"backbone": 200}'),
        ("model.parameters", "0"),
        ("spec.task", '"../demo"'),
        ("run_id", '"a/b"'),
        ("error", '"\\ud800"'),
        ("error", "[" * 100_000),
    ],
)
def test_a_value_that_no_run_has_is_refused_by_file(
    record: Record, tmp_path: Path, key: str, text: str
) -> None:
    def put(tree: dict[str, Any]) -> None:
        *sections, name = key.split(".")
        for section in sections:
            tree = tree[section]
        tree[name] = "here"

    path = _written(record, tmp_path / "r.json", put)
    path.write_text(path.read_text().replace('"here"', text))
    with pytest.raises(RecordError, match=r"r\.json") as refused:
        read_record(path)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize(("name", "value"), [("mcc", -0.5), ("perplexity", 1e9), ("nist", 8.5), ("f1", 0)])
def test_a_metric_is_a_fraction_a_correlation_or_open(
    record: Record, tmp_path: Path, name: str, value: float
) -> None:
    path = _written(
        record, tmp_path / "r.json", lambda tree: tree["metrics"]["last"].update(demo={name: value})
    )
    metrics = read_record(path).metrics
    assert metrics is not None and metrics.last == {"demo": {name: value}}


def test_a_folder_and_a_file_that_is_not_there_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    for name in ("folder.json", "none.json"):
        with pytest.raises(RecordError, match=name):
            read_record(tmp_path / name)


def test_a_file_that_may_not_be_read_is_refused_with_the_reason(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(_: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied")

    path = record.write(tmp_path / "r.json")
    monkeypatch.setattr(Path, "read_bytes", denied)  # root may read everything
    with pytest.raises(RecordError, match=r"r\.json .*Permission denied"):
        read_record(path)


def _full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_record_and_no_temporary_file(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = record.write(tmp_path / "r.json")
    before = path.read_bytes()
    if call == "write":  # after the file was opened

        class Full(io.BytesIO):
            write = _full

        monkeypatch.setattr(Path, "open", lambda *_: Full())
    else:
        monkeypatch.setattr(os if call == "fsync" else Path, call, _full)
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
