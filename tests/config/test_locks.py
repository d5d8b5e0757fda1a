"""Locks between real processes: one holds, others wait or turn away, and none outlives its process."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from processes import at_once, others_that_hold

from layertune.config import files
from layertune.config.files import ends_at_this_machine, locked


@pytest.fixture
def elsewhere() -> Iterator[Callable[[Path], BaseProcess]]:
    """Return a function that has another process hold a lock until it is killed."""
    with others_that_hold() as start:
        yield lambda path: start(partial(_hold, path))


def _hold(path: Path, held: Event) -> None:
    with locked(path):
        held.set()
        time.sleep(60)


def test_a_lock_leaves_no_file_and_no_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b" / "lock") as held:
        assert held and (tmp_path / "a" / "b" / "lock").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_others_use_stays(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "lock"):
        (tmp_path / "a" / "record").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["record"]


def test_what_another_process_holds_is_not_had_until_it_ends(
    tmp_path: Path, elsewhere: Callable[[Path], BaseProcess]
) -> None:
    path = tmp_path / "lock"
    process = elsewhere(path)
    with locked(path, wait=False) as held:
        assert held is False
    assert path.exists()
    os.kill(process.pid, signal.SIGKILL)  # it cannot let go of anything itself
    with locked(path) as held:
        assert held is True


def test_an_error_ends_a_lock(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "lock"):
        raise ZeroDivisionError
    with locked(tmp_path / "lock", wait=False) as held:
        assert held


def _count(folder: Path, times: int) -> None:
    for _ in range(times):
        with locked(folder / "locks" / "lock"):
            number = int((folder / "number").read_text())
            time.sleep(0.001)
            (folder / "number").write_text(str(number + 1))


def test_no_two_of_many_processes_hold_a_lock_at_once_though_each_removes_its_file(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("0")
    assert at_once([partial(_count, tmp_path, 25)] * 4) == [0] * 4
    assert (tmp_path / "number").read_text() == "100"
    assert list(tmp_path.glob("locks/*")) == []


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / "lock") as held:
        assert held is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_an_error_and_no_lack_of_locks(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError), locked(tmp_path / "file" / "lock"):
        pytest.fail("held")


@pytest.mark.parametrize(
    ("options", "alone"),
    [
        ("rw,vers=4.2,local_lock=none,addr=10.0.0.1", False),
        ("rw,vers=3,nolock,addr=10.0.0.1", True),
        ("rw,vers=3,local_lock=flock", True),
        ("rw,localflock", True),
    ],
)
def test_locks_that_a_network_file_system_keeps_to_each_machine_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, alone: bool
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/root / ext4 rw 0 0\nserver:/x {tmp_path} nfs4 {options} 0 0\n")
    monkeypatch.setattr(files, "_MOUNTS", mounts)
    assert ends_at_this_machine(tmp_path / "outputs" / "locks") is alone
    assert not ends_at_this_machine(Path("/elsewhere"))
    monkeypatch.setattr(files, "_MOUNTS", tmp_path / "none")  # macOS
    assert not ends_at_this_machine(tmp_path)
