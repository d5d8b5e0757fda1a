"""The Weights & Biases mirror: an offline run holds what the record holds; a failure costs one warning."""

from __future__ import annotations

import dataclasses
import json
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from layertune.config import RunConfig
from layertune.records import Record
from layertune.records.tracking import Tracker, cell_of, flatten, summary_of

MakeRun = Callable[..., RunConfig]
MakeRecord = Callable[..., Record]
Helpers = Callable[[], list[int]]

BLOCK = 32 * 1024  # of a LevelDB log


def _log_records(path: Path) -> Iterator[Any]:
    """Read a .wandb file: ":W&B", a header of 7 bytes in all, then a LevelDB log of protobuf records."""
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    offset, parts = 7, b""
    while offset < len(data):
        left = BLOCK - offset % BLOCK
        if left < 7:  # too short for a header: padding
            offset += left
            continue
        _crc, length, kind = struct.unpack_from("<IHB", data, offset)
        parts += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # whole, or last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""
    assert parts == b""


@dataclasses.dataclass
class Mirror:
    """What an offline folder holds."""

    run: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    exit_code: int | None
    folder: Path


def _items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _read(folder: Path) -> Mirror:
    """Read the only offline run below `<outputs>/wandb`."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    mirror = Mirror(None, {}, [], {}, None, file.parent)
    for record in _log_records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            mirror.run = record.run
            mirror.config |= _items(record.run.config.update)
        elif kind == "config":
            mirror.config |= _items(record.config.update)
        elif kind == "history":
            row = _items(record.history.item)
            mirror.history.append(
                {key: value for key, value in row.items() if key[0] != "_"} | {"_step": row["_step"]}
            )
        elif kind == "summary":
            mirror.summary |= _items(record.summary.update)
        elif kind == "exit":
            mirror.exit_code = record.exit.exit_code
    return mirror


def _picture(path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (4, 4), (200, 30, 30)).save(path)
    return path


def test_an_offline_run_holds_what_the_record_holds(
    make_run: MakeRun,
    make_record: MakeRecord,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    wandb_helpers: Helpers,
) -> None:
    run = make_run(seed=42, data_dir=str(tmp_path))
    record = make_record(run)
    assert record.training is not None
    with Tracker(run) as track:
        assert len(wandb_helpers()) == 1
        track.log_image("layer similarity", _picture(tmp_path / "heat.png"))
        for entry in record.training.history:
            track.log_epoch(entry)
        assert (track.facts.wandb_id, track.facts.wandb_mode) == (run.run_id, "offline")
        track.finish(record)
    assert wandb_helpers() == []
    assert capfd.readouterr() == ("", "")

    mirror = _read(Path(run.outputs_dir))
    assert (mirror.run.run_id, mirror.run.display_name, mirror.run.project) == (
        run.run_id,
        run.run_id,
        "layertune",
    )
    assert mirror.run.run_group == "tiny_bert-demo-low_k-k2"
    assert sorted(mirror.run.tags) == ["demo", "low_k", "paper", "tiny_bert"]
    assert mirror.exit_code == 0

    assert mirror.config["config_sha256"] == run.config_sha256 == record.identity.config_sha256
    assert mirror.config["seed"] == 42
    assert mirror.config["model"]["num_layers"] == 4
    assert mirror.config["train"]["learning_rate"] == 2e-5
    assert mirror.config["data_dir"] == tmp_path.name  # no folder of this machine leaves it
    assert str(tmp_path) not in json.dumps(mirror.config)

    assert [row["_step"] for row in mirror.history] == [0, 1, 2]
    picture, first, second = mirror.history
    assert first == {
        "epoch": 1, "steps": 4, "loss": 0.7, "seconds": 1.5,
        "demo/accuracy": 0.75, "demo/f1": None, "_step": 1
    }  # fmt: skip
    assert second == {
        "epoch": 2, "steps": 8, "loss": 0.5, "seconds": 1.25,
        "demo/accuracy": 0.5, "demo/f1": 0.25, "_step": 2
    }  # fmt: skip
    image = mirror.folder / "files" / picture["layer similarity/path"]
    assert image.read_bytes() == (tmp_path / "heat.png").read_bytes()

    expected = {
        "status": "done",
        "last/demo/accuracy": 0.5,
        "last/demo/f1": 0.25,
        "best/demo/accuracy": 0.75,
        "best/demo/f1": None,
        "best/epoch": 1,
        "training/seconds": 2.75,
        "training/steps": 8,
        "selection/seconds": 0.5,
        "parameters": 1000,
        "trainable/backbone": 200,
        "trainable/head": 34,
        "trainable/added": 0,
        "layers": [2, 3],
        "checks/frozen_unchanged": True,
        "checks/trainable_matches_selection": None,
        "checks/beats_majority": False,
    }
    assert {key: mirror.summary.get(key, "absent") for key in expected} == expected
    of_history = {"epoch", "steps", "loss", "seconds", "demo/accuracy", "demo/f1"}
    others = {key for key in mirror.summary if key[0] != "_" and not key.startswith("layer similarity/")}
    assert others - of_history == set(summary_of(record)) >= set(expected)

    names = {path.name for path in mirror.folder.glob("files/*")}
    assert names == {"media"}  # no code, packages, console or machine facts


def test_a_forced_repeat_in_the_same_process_keeps_the_id(make_run: MakeRun, make_record: MakeRecord) -> None:
    run = make_run(force=True)
    for folder in ("first", "second"):
        with Tracker(run, Path(run.outputs_dir) / folder) as track:
            track.finish(make_record(run))
        assert _read(Path(run.outputs_dir) / folder).run.run_id == run.run_id
    assert not (Path(run.outputs_dir) / "wandb").exists()


def test_an_exception_inside_closes_the_mirror_as_failed_and_goes_on_up(
    make_run: MakeRun, wandb_helpers: Helpers
) -> None:
    run = make_run()
    with pytest.raises(ZeroDivisionError), Tracker(run) as track:
        track.log_epoch({"epoch": 1, "loss": float("nan"), "seconds": 1.0, "metrics": {}})
        raise ZeroDivisionError
    mirror = _read(Path(run.outputs_dir))
    assert mirror.exit_code == 1
    assert mirror.history == [{"epoch": 1, "loss": None, "seconds": 1.0, "_step": 1}]
    assert wandb_helpers() == []


def test_a_record_that_is_not_done_closes_the_mirror_as_failed(
    make_run: MakeRun, make_record: MakeRecord
) -> None:
    run = make_run()
    with Tracker(run) as track:
        track.finish(make_record(run, status="failed", error="checks are false: loss_finite"))
    mirror = _read(Path(run.outputs_dir))
    assert (mirror.exit_code, mirror.summary["status"]) == (1, "failed")


def test_disabled_imports_nothing_and_writes_nothing(
    make_run: MakeRun, make_record: MakeRecord, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would turn the mode into "unavailable"
    run = make_run(tracking={"mode": "disabled"})
    before = sorted(tmp_path.rglob("*"))
    with Tracker(run) as track:
        track.log_epoch({"epoch": 1, "metrics": {}})
        track.log_image("heat", tmp_path / "missing.png")
        track.finish(make_record(run))
    assert (track.facts.wandb_id, track.facts.wandb_mode) == (None, "disabled")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_group_is_a_table_cell(make_run: MakeRun) -> None:
    assert cell_of(make_run()) == cell_of(make_run(seed=42)) == "tiny_bert-demo-low_k-k2"
    full = {"name": "full", "kind": "full", "scorer": None, "selector": None, "k": None}
    assert cell_of(make_run(method=full)) == "tiny_bert-demo-full"


def test_flatten_joins_keys_by_slashes_and_keeps_lists_whole() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {"a/b": 1, "a/c/d": [1, 2], "e": None}


def test_the_summary_of_a_run_that_ended_early_holds_its_status_alone(
    make_run: MakeRun, make_record: MakeRecord
) -> None:
    sections = dict.fromkeys(("model", "selection", "training", "metrics", "checks"))
    assert summary_of(make_record(make_run(), status="oom", **sections)) == {"status": "oom"}


def test_records_and_tracking_import_neither_torch_nor_wandb() -> None:
    code = (
        "import sys, layertune.records, layertune.records.tracking; "
        "print([m for m in ('torch', 'wandb', 'hydra', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
