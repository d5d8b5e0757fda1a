"""Of several processes that want a run one trains it; the others wait for its record or train another."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from processes import FORK, at_once, others_that_hold

from layertune.config import RunConfig, files
from layertune.errors import ConfigError, RunClaimed, RunFailed
from layertune.records import Record, Store
from layertune.records.store import claimed, in_a_sweep, last_written

MakeRun = Callable[..., RunConfig]
MakeRecord = Callable[..., Record]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", tmp_path / "outputs")


@pytest.fixture
def meanwhile(store: Store):
    """Return a function that has another process hold a run, and leave a record of it when this one waits."""

    def work(run: RunConfig, record: Record | None, seconds: float, held: Event) -> None:
        with claimed(run, store):
            held.set()
            time.sleep(seconds)
            if record is not None:
                store.save(record, run)

    with others_that_hold() as start:
        yield lambda run, record=None, seconds=0.3: start(partial(work, run, record, seconds))


def test_of_several_processes_one_trains_and_the_others_return_its_record(
    store: Store, make_run: MakeRun, make_record: MakeRecord
) -> None:
    run, trained, found = make_run(), FORK.SimpleQueue(), FORK.SimpleQueue()

    def work() -> None:
        with claimed(run, store) as done:
            if done is None:
                trained.put(os.getpid())
                time.sleep(0.3)
                store.save(make_record(run), run)
            found.put(done)

    assert at_once([work] * 4) == [0] * 4
    trained.get()
    assert trained.empty()
    answers = [found.get() for _ in range(4)]
    assert answers.count(None) == 1 and answers.count(make_record(run)) == 3


def test_nothing_is_left_of_a_claim(store: Store, make_run: MakeRun, tmp_path: Path) -> None:
    with claimed(make_run(), store) as done:
        assert done is None and len(list(tmp_path.rglob("*.lock"))) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_process_was_killed_is_free_and_its_lock_goes_with_the_next_run(
    store: Store, make_run: MakeRun, meanwhile, tmp_path: Path
) -> None:
    other = meanwhile(make_run(), seconds=60)
    with in_a_sweep({}), pytest.raises(RunClaimed), claimed(make_run(), store):
        pytest.fail("held by both")
    with claimed(make_run(seed=1), store):
        assert len(list(tmp_path.rglob("*.lock"))) == 2
    other.kill()
    other.join()
    with claimed(make_run(seed=1), store) as done:
        assert done is None and len(list(tmp_path.rglob("*.lock"))) == 1
    with claimed(make_run(), store) as done:
        assert done is None
    assert not list(tmp_path.rglob("*.lock"))


def test_machines_that_share_the_records_alone_train_a_run_once(
    store: Store, make_run: MakeRun, meanwhile, tmp_path: Path
) -> None:
    meanwhile(make_run(), seconds=60)
    elsewhere = Store(tmp_path / "results", tmp_path / "elsewhere")
    run = make_run(outputs_dir=str(tmp_path / "elsewhere"))
    with in_a_sweep({}), pytest.raises(RunClaimed), claimed(run, elsewhere):
        pytest.fail("held by both")


def test_in_a_sweep_nobody_waits_and_the_turn_comes_again(
    store: Store, make_run: MakeRun, make_record: MakeRecord, meanwhile
) -> None:
    run = make_run()
    other = meanwhile(run, make_record(run))
    with (
        in_a_sweep(last_written(store)),
        pytest.raises(RunClaimed, match="another process") as found,
        claimed(run, store),
    ):
        pytest.fail("held by both")
    turn = found.value.turn
    assert not turn.is_free() and turn.answer() is None
    other.join()
    assert turn.is_free() and turn.answer() == make_record(run)


@pytest.mark.parametrize("status", ["failed", "oom"])
def test_what_failed_in_another_process_meanwhile_is_not_tried_again(
    store: Store, make_run: MakeRun, make_record: MakeRecord, meanwhile, status: str
) -> None:
    run = make_run()
    failed = make_record(run, status=status, error="Traceback\nZeroDivisionError: by zero\n")
    meanwhile(run, failed)
    with pytest.raises(RunFailed, match=f"{status}.*by zero"), claimed(run, store):
        pytest.fail("tried again")


def test_what_was_interrupted_in_another_process_meanwhile_goes_on(
    store: Store, make_run: MakeRun, make_record: MakeRecord, meanwhile
) -> None:
    run = make_run()
    meanwhile(run, make_record(run, status="interrupted", error="asked to stop"))
    with claimed(run, store) as done:
        assert done is None


@pytest.mark.parametrize("clock", [1e6, 1e10], ids=["behind", "ahead"])
def test_a_failure_is_tried_again_by_the_next_command_and_not_by_others_of_the_same_time(
    store: Store, make_run: MakeRun, make_record: MakeRecord, clock: float
) -> None:
    """Whatever the clock of the file system says: a server's is not this machine's."""
    run, other = make_run(), make_run(seed=1)
    os.utime(store.save(make_record(other), other), (clock - 1, clock - 1))
    began = last_written(store)
    os.utime(store.save(make_record(run, status="failed", error="why"), run), (clock, clock))
    with claimed(run, store) as done:
        assert done is None
    with in_a_sweep(began), pytest.raises(RunFailed, match="why"), claimed(run, store):
        pytest.fail("tried again")
    with in_a_sweep(last_written(store)), claimed(run, store) as done:
        assert done is None


def test_force_repeats_what_was_done_before_and_takes_what_another_process_repeats_now(
    store: Store, make_run: MakeRun, make_record: MakeRecord, meanwhile
) -> None:
    run = make_run(force=True)
    old = make_record(run, created_at="2026-01-01T00:00:00+00:00")
    os.utime(store.save(old, run), (1, 1))
    with claimed(run, store) as done:
        assert done is None
    meanwhile(run, make_record(run))
    with claimed(run, store) as done:
        assert done == make_record(run) != old


def test_a_record_of_older_versions_is_no_answer(
    store: Store, make_run: MakeRun, make_record: MakeRecord
) -> None:
    run = make_run()
    versions = dataclasses.replace(make_record(run).versions, method=7)
    store.save(make_record(run, versions=versions), run)
    with in_a_sweep(last_written(store)), claimed(run, store) as done:
        assert done is None


def test_a_file_system_whose_locks_protect_nothing_is_said_and_the_run_goes_on(
    store: Store,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    (tmp_path / "mounts").write_text(f"server:/x {tmp_path} nfs rw,nolock 0 0\n")
    with monkeypatch.context() as patch, claimed(make_run(), store) as done:
        assert done is None and caplog.text == ""
        patch.setattr(files, "_MOUNTS", tmp_path / "mounts")
        with claimed(make_run(seed=1), store) as done:
            assert done is None and "no locks" in caplog.text
    caplog.clear()

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", none)
    with caplog.at_level(logging.WARNING), claimed(make_run(), store) as done:
        assert done is None and "no locks" in caplog.text


def test_an_outputs_folder_that_takes_no_lock_is_a_wrong_request(
    make_run: MakeRun, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "outputs").touch()
    with pytest.raises(ConfigError, match="outputs"), claimed(make_run(), store):
        pytest.fail("begun")
