"""The Weights & Biases mirror: an offline run holds what the record holds; a failure costs one warning."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layertune.config import RunConfig
from layertune.records import Record, tracking
from layertune.records.tracking import Tracker, cell_of, flatten, summary_of

MakeRun = Callable[..., RunConfig]
MakeRecord = Callable[..., Record]

BLOCK = 32 * 1024  # of a LevelDB log


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the home folder, its credentials and W&B's variables of the machine out of the tests."""
    for name in [key for key in os.environ if key.startswith("WANDB_") and key != "WANDB_SILENT"]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("NETRC", str(home / "netrc"))


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


def _helpers() -> list[int]:
    """List the wandb helper processes that this process started."""
    proc = Path("/proc")
    if not proc.is_dir():
        pytest.skip("child processes are read from /proc, which this system does not have")
    found = []
    for entry in proc.glob("[0-9]*/stat"):
        try:
            name, _, rest = entry.read_text().partition("(")[2].rpartition(")")
        except OSError:  # it ended while we looked
            continue
        state, parent = rest.split()[:2]
        if int(parent) == os.getpid() and "wandb" in name and state != "Z":
            found.append(int(entry.parent.name))
    return found


def _picture(path: Path) -> Path:
    from PIL import Image

    Image.new("RGB", (4, 4), (200, 30, 30)).save(path)
    return path


def test_an_offline_run_holds_what_the_record_holds(
    make_run: MakeRun, make_record: MakeRecord, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = make_run(seed=42, data_dir=str(tmp_path))
    record = make_record(run)
    assert record.training is not None
    with Tracker(run) as track:
        assert len(_helpers()) == 1
        track.log_image("layer similarity", _picture(tmp_path / "heat.png"))
        for entry in record.training.history:
            track.log_epoch(entry)
        assert (track.facts.wandb_id, track.facts.wandb_mode) == (run.run_id, "offline")
        track.finish(record)
    assert _helpers() == []
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


def test_an_exception_inside_closes_the_mirror_as_failed_and_goes_on_up(make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(ZeroDivisionError), Tracker(run) as track:
        track.log_epoch({"epoch": 1, "loss": float("nan"), "seconds": 1.0, "metrics": {}})
        raise ZeroDivisionError
    mirror = _read(Path(run.outputs_dir))
    assert mirror.exit_code == 1
    assert mirror.history == [{"epoch": 1, "loss": None, "seconds": 1.0, "_step": 1}]
    assert _helpers() == []


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


def test_without_wandb_the_run_goes_on_after_one_warning(
    make_run: MakeRun,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = make_run()
    with Tracker(run) as track:
        track.log_epoch({"epoch": 1, "metrics": {}})
        track.finish(make_record(run))
    assert (track.facts.wandb_id, track.facts.wandb_mode) == (None, "unavailable")
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert "wandb cannot be imported" in line.getMessage()
    assert not Path(run.outputs_dir).exists()


def test_online_without_a_login_is_a_named_failure_and_not_another_mode(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(tracking={"mode": "online"})
    with Tracker(run) as track:
        track.log_epoch({"epoch": 1, "metrics": {}})
    assert track.facts.wandb_id is None
    assert track.facts.wandb_mode.startswith("failed: no W&B login: run `wandb login`")
    assert [line.levelname for line in caplog.records if line.name.startswith("layertune")] == ["WARNING"]
    assert not list(Path(run.outputs_dir).rglob("*.wandb"))
    assert _helpers() == []


def test_online_without_a_network_is_a_named_failure(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setitem(tracking._SETTINGS, "init_timeout", 1)
    with Tracker(make_run(tracking={"mode": "online"})) as track:
        track.log_epoch({"epoch": 1, "metrics": {}})
    assert track.facts.wandb_mode.startswith("failed: ")
    assert len([line for line in caplog.records if line.name.startswith("layertune")]) == 1
    assert _helpers() == []


class FakeRun:
    """A W&B run that remembers its calls."""

    def __init__(self, step: int = 0) -> None:
        self.step, self.calls = step, []
        self.summary = {}

    def log(self, values: dict[str, Any], step: int) -> None:
        self.calls.append(("log", values, step))

    def finish(self, exit_code: int) -> None:
        self.calls.append(("finish", exit_code))


class FakeWandb:
    """As much of the wandb module as the tracker uses."""

    run: Any = None  # the run of the calling program

    def __init__(self, step: int = 0) -> None:
        self.opened = FakeRun(step)
        self.teardowns: list[int] = []
        self.asked: dict[str, Any] = {}
        self.Image = lambda path: ("image", path)

        class Settings(SimpleNamespace):
            model_fields = dict.fromkeys(tracking._SETTINGS)

        self.Settings = Settings

    def login(self, prompt: bool, verify: bool) -> bool:
        return not prompt and not verify

    def init(self, **asked: Any) -> FakeRun:
        self.asked = asked
        return self.opened

    def teardown(self, exit_code: int) -> None:
        self.teardowns.append(exit_code)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)  # type: ignore[arg-type]
    return module


ONLINE = {"mode": "online", "project": "layers", "entity": "team"}


@pytest.mark.parametrize(
    ("changes", "resume"),
    [
        ({"tracking": ONLINE}, None),  # a repeat of the id replaces it
        ({"tracking": ONLINE, "checkpoint": {"every_steps": 5}}, "allow"),  # may go on from a checkpoint
        ({"tracking": ONLINE, "checkpoint": {"every_steps": 5}, "force": True}, None),  # starts over
        ({"checkpoint": {"every_steps": 5}}, None),  # offline: nothing to continue
    ],
    ids=["repeat", "resumable", "forced", "offline"],
)
def test_one_wandb_run_per_run_id_continued_or_replaced(
    fake: FakeWandb, make_run: MakeRun, changes: dict[str, Any], resume: str | None
) -> None:
    run = make_run(**changes)
    with Tracker(run):
        pass
    assert (fake.asked["id"], fake.asked["resume"]) == (run.run_id, resume)
    if run.tracking.mode == "online":
        assert (fake.asked["project"], fake.asked["entity"]) == ("layers", "team")
    settings = vars(fake.asked["settings"])
    assert settings["silent"] is True and settings["console"] == "off"
    assert (
        settings["save_code"] is False
        and settings["disable_git"] is True
        and settings["x_disable_stats"] is True
    )


def test_a_continued_run_logs_a_picture_at_its_present_step(
    fake: FakeWandb, make_run: MakeRun, tmp_path: Path
) -> None:
    fake.opened.step = 3
    with Tracker(make_run(tracking=ONLINE)) as track:
        track.log_image("heat", tmp_path / "heat.png")
        track.log_epoch({"epoch": 4, "metrics": {"demo": {"accuracy": 0.5}}})
        track.log_image("heat", tmp_path / "heat.png")
    image = {"heat": ("image", str(tmp_path / "heat.png"))}
    assert fake.opened.calls == [
        ("log", image, 3),
        ("log", {"epoch": 4, "demo/accuracy": 0.5}, 4),
        ("log", image, 4),
        ("finish", 0),
    ]


def test_a_mirror_that_breaks_on_the_way_costs_one_warning_and_is_closed(
    fake: FakeWandb,
    make_run: MakeRun,
    make_record: MakeRecord,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fake.opened, "log", full)
    run = make_run()
    with Tracker(run) as track:
        for epoch in (1, 2):
            track.log_epoch({"epoch": epoch, "metrics": {}})
        track.finish(make_record(run))
    assert track.facts.wandb_mode == "failed: [Errno 28] No space left on device"
    assert [line.levelname for line in caplog.records] == ["WARNING"]
    assert fake.opened.calls == [("finish", 1)]
    assert fake.opened.summary == {}
    assert fake.teardowns == [0]


def test_an_interrupt_is_never_swallowed_and_leaves_nothing_open(
    fake: FakeWandb, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(**_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fake, "init", interrupted)
    with pytest.raises(KeyboardInterrupt), Tracker(make_run()):
        pass
    assert fake.teardowns == [1]


def test_the_wandb_run_of_the_calling_program_is_left_alone(fake: FakeWandb, make_run: MakeRun) -> None:
    fake.run = object()
    with Tracker(make_run()):
        pass
    assert fake.opened.calls == [("finish", 0)]
    assert vars(fake.asked["settings"])["reinit"] == "create_new"
    assert fake.teardowns == []  # it would end the helper process of the other run


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
