"""What goes wrong with the mirror costs one warning and is named in the record; the run goes on."""

from __future__ import annotations

import errno
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layertune.config import RunConfig
from layertune.records import Record, tracking
from layertune.records.tracking import Tracker

MakeRun = Callable[..., RunConfig]
MakeRecord = Callable[..., Record]
Helpers = Callable[[], list[int]]


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
    make_run: MakeRun, caplog: pytest.LogCaptureFixture, wandb_helpers: Helpers
) -> None:
    run = make_run(tracking={"mode": "online"})
    with Tracker(run) as track:
        track.log_epoch({"epoch": 1, "metrics": {}})
    assert track.facts.wandb_id is None
    assert track.facts.wandb_mode.startswith("failed: no W&B login: run `wandb login`")
    assert [line.levelname for line in caplog.records if line.name.startswith("layertune")] == ["WARNING"]
    assert not list(Path(run.outputs_dir).rglob("*.wandb"))
    assert wandb_helpers() == []


def test_online_without_a_network_is_a_named_failure(
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wandb_helpers: Helpers,
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setitem(tracking._SETTINGS, "init_timeout", 1)
    with Tracker(make_run(tracking={"mode": "online"})) as track:
        track.log_epoch({"epoch": 1, "metrics": {}})
    assert track.facts.wandb_mode.startswith("failed: ")
    assert len([line for line in caplog.records if line.name.startswith("layertune")]) == 1
    assert wandb_helpers() == []


class FakeRun:
    """A W&B run that remembers its calls."""

    def __init__(self, step: int = 0) -> None:
        self.step, self.calls = step, []
        self.summary, self.id = {}, "a0"
        self.settings = SimpleNamespace(sync_file=__file__)

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


def test_the_record_names_the_id_that_was_given(fake: FakeWandb, make_run: MakeRun) -> None:
    fake.opened.id = "given by a sweep"
    with Tracker(make_run()) as track:
        pass
    assert track.facts.wandb_id == "given by a sweep"


def test_a_mirror_that_lost_its_file_is_noticed(
    make_run: MakeRun, caplog: pytest.LogCaptureFixture, wandb_helpers: Helpers
) -> None:
    run = make_run()
    with Tracker(run) as track:
        (file,) = Path(run.outputs_dir).glob("wandb/offline-run-*/run-*.wandb")
        shutil.rmtree(file.parent)
    assert track.facts.wandb_mode == f"failed: {file.name} is gone"
    assert [line.levelname for line in caplog.records if line.name.startswith("layertune")] == ["WARNING"]
    assert wandb_helpers() == []


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
