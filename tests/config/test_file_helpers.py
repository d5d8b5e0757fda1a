"""Files appear whole, and what a killed process was writing goes with the next write beside it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from processes import others_that_hold

from layertune.config.files import WRITING, lock_of, locked, remove_abandoned, write_atomic


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "records" / "a.json"
    assert write_atomic(path, b"one") == path and write_atomic(path, b"two").read_bytes() == b"two"
    assert names(path.parent) == ["a.json"]


def test_of_a_write_that_fails_nothing_is_left_and_nothing_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(tmp_path / "a.json", b"one")

    def full(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        write_atomic(tmp_path / "a.json", b"two")
    assert names(tmp_path) == ["a.json"] and (tmp_path / "a.json").read_bytes() == b"one"


def _write_for_ever(path: Path, on_its_way: Event) -> None:
    os.fsync = lambda _: on_its_way.set() or time.sleep(60)  # type: ignore[assignment]
    write_atomic(path, b"half")


def _make_for_ever(entry: Path, on_its_way: Event) -> None:
    with locked(lock_of(entry)):
        temporary = entry.with_name(f"{WRITING}{entry.name}")
        temporary.mkdir()
        (temporary / "ids.npy").touch()
        on_its_way.set()
        time.sleep(60)


@pytest.mark.parametrize("what", [_write_for_ever, _make_for_ever])
def test_what_a_killed_process_was_writing_is_removed_and_what_a_living_one_writes_stays(
    tmp_path: Path, what: Callable[..., None]
) -> None:
    with others_that_hold() as start:
        start(partial(what, tmp_path / "a"))
        write_atomic(tmp_path / "b.json", b"one")
        assert len([name for name in names(tmp_path) if name.startswith(WRITING)]) == 1
    assert len([name for name in names(tmp_path) if name.startswith(WRITING)]) == 1
    write_atomic(tmp_path / "b.json", b"two")
    assert names(tmp_path) == ["b.json"]


def test_without_locks_nothing_is_taken_for_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr("fcntl.flock", none)
    (tmp_path / f"{WRITING}a").mkdir()
    (tmp_path / f"{WRITING}b").touch()
    remove_abandoned(tmp_path)
    write_atomic(tmp_path / "c.json", b"one")
    assert names(tmp_path) == [f"{WRITING}a", f"{WRITING}b", "c.json"]
