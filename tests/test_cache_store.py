"""Entries appear whole, are trusted only as they were written, and share a bounded folder."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from processes import FORK, at_once

from layertune import cache_store as store_module
from layertune.cache_store import CacheStore

SHAPES = {"states": ((100, 8), torch.bfloat16), "empty": ((0, 8), torch.float32)}  # 1,600 bytes


def key(number: int = 0) -> dict[str, object]:
    return {"weights": "w", "layer": number}


def fill(store: CacheStore, name: dict[str, object], value: float = 1.0) -> None:
    with store.building(name), store.writing(name, SHAPES) as (tensors, facts):
        tensors["states"].fill_(value)
        facts["cost"] = {"seconds": 2.5, "cpu_seconds": 1.5}


@pytest.fixture
def store(tmp_path: Path) -> CacheStore:
    return CacheStore(tmp_path / "prefix", max_bytes=8000)


def test_an_entry_reads_back_as_written(store):
    assert store.find(key()) is None
    fill(store, key(), 3.0)
    entry = store.find(key())
    assert entry.tensors["states"].dtype == torch.bfloat16 and entry.num_bytes == 1600
    assert torch.equal(entry.tensors["states"], torch.full((100, 8), 3.0, dtype=torch.bfloat16))
    assert entry.tensors["empty"].shape == (0, 8) and 2.5 < entry.facts["cost"]["seconds"] < 12.5
    assert store.find(key(1)) is None


def test_nothing_is_left_of_an_entry_whose_making_failed(store):
    with pytest.raises(RuntimeError), store.building(key()), store.writing(key(), SHAPES):
        raise RuntimeError("on purpose")
    assert store.find(key()) is None
    assert not store.folder.exists()


@pytest.mark.parametrize("damage", ["flipped byte", "cut short", "other key", "no file", "no json"])
def test_a_damaged_entry_is_refused_and_removed(store, damage, caplog):
    fill(store, key())
    path = store.path(key())
    file, facts = path / "states", path / "facts.json"
    if damage == "flipped byte":
        content = bytearray(file.read_bytes())
        content[801] ^= 1
        file.write_bytes(content)
    elif damage == "cut short":
        file.write_bytes(file.read_bytes()[:-2])
    elif damage == "other key":
        tree = json.loads(facts.read_text())
        facts.write_text(json.dumps(tree | {"key": key(7)}))
    elif damage == "no file":
        file.unlink()
    else:
        facts.write_text("{")
    assert store.find(key()) is None
    assert not path.exists() and "is refused" in caplog.text
    fill(store, key(), 2.0)
    assert float(store.find(key()).tensors["states"][0, 0]) == 2.0


def test_an_entry_that_another_process_put_there_meanwhile_stays(store, monkeypatch):
    fill(store, key())

    def replaced(path, name):
        shutil.rmtree(path)
        fill(store, name, 2.0)
        raise ValueError("it was damaged when it was read")

    with monkeypatch.context() as patched:
        patched.setattr(store_module, "_read", replaced)
        assert store.find(key()) is None
    assert float(store.find(key()).tensors["states"][0, 0]) == 2.0


def test_its_checksums_are_part_of_what_an_entry_costs(store, monkeypatch):
    real = store_module._checksum
    monkeypatch.setattr(store_module, "_checksum", lambda path: time.sleep(0.05) or real(path))
    with store.building(key()), store.writing(key(), SHAPES) as (_, facts):
        facts["cost"] = {"seconds": 100.0, "cpu_seconds": 200.0}  # of what it was made from
    cost = store.find(key()).facts["cost"]
    assert 100.0 + 0.05 * len(SHAPES) <= cost["seconds"] < 110.0
    assert 200.0 < cost["cpu_seconds"] < 210.0


def test_what_was_unused_for_longest_goes_first(store):
    for number in range(4):  # each about 1,600 bytes and its facts
        fill(store, key(number))
        os.utime(store.path(key(number)), (1000 + number, 1000 + number))
    assert store.find(key(0)) is not None  # used just now
    assert store.make_room(key(9), 3200) is None
    found = [number for number in range(4) if store.path(key(number)).exists()]
    assert found[0] == 0 and 1 not in found and len(found) in (2, 3)


def test_an_entry_larger_than_the_bound_is_refused_with_both_numbers(store):
    reason = store.make_room(key(), 2_000_000_000)
    assert "2.00 GB" in reason and "cache.max_gb is 8e-06" in reason


def test_what_an_ended_process_left_is_removed_and_what_another_writes_counts(store):
    left = store.folder / f".writing-{store.path(key(1)).name}"
    left.mkdir(parents=True)
    (left / "states").write_bytes(bytes(7000))
    fill(store, key())
    with store.building(key(1)):  # its builder lives: the bytes count, so the other entry has to go
        (left.mkdir(), (left / "states").write_bytes(bytes(7000)))
        assert store.make_room(key(2), 500) is None
        assert left.exists() and not store.path(key()).exists()
    (left.mkdir(), (left / "states").write_bytes(bytes(7000)))
    assert store.make_room(key(2), 500) is None
    assert not left.exists()


def test_two_entries_in_the_making_never_pass_the_bound_together(store):
    with store.building(key(1)):
        assert store.make_room(key(1), 6000) is None
        with store.building(key(2)):
            assert "other runs are writing" in store.make_room(key(2), 5000)
            assert store.make_room(key(2), 2000) is None
    with store.building(key(3)):  # both ended without an entry: their places are free
        assert store.make_room(key(3), 8000) is None


def test_the_room_of_an_entry_is_taken_on_disk_before_it_is_filled(store):
    with store.building(key()):
        assert store.make_room(key(), 1600) is None
        with store.writing(key(), SHAPES):
            (folder,) = store.folder.glob(".writing-*")
            assert sorted(file.name for file in folder.iterdir()) == sorted(SHAPES)
            assert (folder / "states").stat().st_blocks * 512 >= 1600


def test_an_open_entry_stays_readable_after_its_eviction(store):
    fill(store, key(), 5.0)
    entry = store.find(key())
    assert store.make_room(key(2), 7900) is None
    assert not store.path(key()).exists()
    assert float(entry.tensors["states"].float().sum()) == 4000.0


def test_of_several_processes_one_computes_and_the_others_wait(tmp_path):
    made = FORK.SimpleQueue()

    def worker():
        store = CacheStore(tmp_path, max_bytes=8000)
        with store.building(key()):
            if store.find(key()) is None:
                with store.writing(key(), SHAPES) as (tensors, _):
                    time.sleep(0.3)
                    tensors["states"].fill_(1.0)
                made.put(os.getpid())

    assert at_once([worker] * 3) == [0, 0, 0]
    made.get()
    assert made.empty()
    assert CacheStore(tmp_path, 8000).find(key()) is not None
