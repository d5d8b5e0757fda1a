"""A state on disk: what comes back is what was written, to the last bit, or nothing does."""

from __future__ import annotations

import ast
import json
import math
import pickle
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch

import layertune
from layertune.training import checkpoint
from layertune.training.checkpoint import has_state, read_state, write_state

FACTS = {"of": {"run": "a-b-c", "device": "cpu"}, "forced": False}
STATE = {
    "bits": torch.tensor([True, False]),
    "half": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "steps": {0: {"step": torch.tensor(3.0)}, 1: {}},
    "nested": [(1, None, ("x", 2.5)), {"ü", "b"}, frozenset({4}), True],
    "numbers": [0.1, 1e-300, -math.inf, 2**70],
    "empty": [torch.empty(0), torch.empty(0, 3), [], {}, ()],
}


def same(first, second):
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return type(first) is type(second) and all(map(same, first, second)) and len(first) == len(second)
    return type(first) is type(second) and first == second


def test_every_kind_of_value_comes_back_as_it_was(tmp_path):
    assert not has_state(tmp_path)
    write_state(tmp_path, FACTS, STATE)
    facts, state = read_state(tmp_path)
    assert has_state(tmp_path) and facts == FACTS and same(STATE, state)
    assert math.isnan(_kept(tmp_path, math.nan))
    assert same({"a": 1}, _kept(tmp_path, OrderedDict(a=1)))


def _kept(folder, value):
    write_state(folder, FACTS, value)
    return read_state(folder)[1]


def test_what_shares_memory_or_lies_in_another_order_is_written_apart(tmp_path):
    whole = torch.arange(6.0).view(2, 3)
    kept = _kept(tmp_path, [whole, whole, whole[1], whole.T, torch.nn.Parameter(whole)])
    kept[0].zero_()
    assert kept[2].tolist() == [3, 4, 5] and kept[3].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert kept[1].sum() == kept[4].sum() == 15 and not kept[4].requires_grad


def test_what_the_file_cannot_hold_is_a_mistake_at_once(tmp_path):
    with pytest.raises(TypeError, match="Path"):
        write_state(tmp_path, FACTS, {"where": Path("here")})
    assert not has_state(tmp_path)


def test_one_flipped_bit_anywhere_is_never_read(tmp_path):
    """Each byte of both files, and in each another bit."""
    write_state(tmp_path, FACTS, STATE)
    for path in sorted(tmp_path.iterdir()):
        intact = path.read_bytes()
        for place in range(len(intact)):
            flipped = bytearray(intact)
            flipped[place] ^= 1 << (place * 5 % 8)
            path.write_bytes(flipped)
            with pytest.raises((ValueError, OSError)):
                read_state(tmp_path)
        path.write_bytes(intact)
    assert same(STATE, read_state(tmp_path)[1])


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_half_a_file_and_a_missing_one_are_never_read(tmp_path, cut):
    write_state(tmp_path, FACTS, STATE)
    for path in sorted(tmp_path.iterdir()):
        intact = path.read_bytes()
        path.write_bytes(intact[:cut])
        with pytest.raises(ValueError, match="not as it was written"):
            read_state(tmp_path)
        path.write_bytes(intact)
    (tensors,) = tmp_path.glob("*.safetensors")
    tensors.unlink()
    with pytest.raises(OSError, match=tensors.name):
        read_state(tmp_path)


def test_a_text_that_says_the_same_in_other_words_is_not_read(tmp_path):
    write_state(tmp_path, FACTS, STATE)
    path = tmp_path / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))
    with pytest.raises(ValueError, match=r"state\.json"):
        read_state(tmp_path)


@pytest.mark.parametrize("found", [b"", b"[]", b"[" * 100_000, b'{"content":1}', b"\xff\xfe{}", b"null"])
def test_whatever_lies_there_is_refused_in_the_same_words(tmp_path, found):
    (tmp_path / "state.json").write_bytes(found)
    with pytest.raises(ValueError, match=r"state\.json is not as it was written"):
        read_state(tmp_path)


def test_a_planted_pickle_never_runs(tmp_path):
    ran = tmp_path / "ran"

    class Planted:
        def __reduce__(self):
            return (Path.touch, (ran,))

    write_state(tmp_path / "state", FACTS, STATE)
    for path in sorted((tmp_path / "state").iterdir()):
        intact = path.read_bytes()
        path.write_bytes(pickle.dumps(Planted()))
        with pytest.raises(ValueError, match="not as it was written"):
            read_state(tmp_path / "state")
        torch.save(Planted(), path)
        with pytest.raises(ValueError, match="not as it was written"):
            read_state(tmp_path / "state")
        path.write_bytes(intact)
    assert not ran.exists()
    pickle.loads(pickle.dumps(Planted()))  # it would have
    assert ran.exists()


def test_nothing_in_the_package_reads_or_writes_pickles():
    unsafe = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    found = []
    for path in Path(layertune.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = {ast.unparse(node)} if isinstance(node, ast.Attribute) else set()
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names = {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
            if isinstance(node, ast.keyword):
                names = {node.arg} if node.arg == "allow_pickle" else set()
            if names & (unsafe | {"torch.load", "torch.save", "allow_pickle"}):
                found.append(f"{path.name}:{getattr(node, 'lineno', '?')}")
    assert found == []


def test_writing_that_ends_on_its_way_leaves_the_state_before(tmp_path, monkeypatch):
    """It ends when the new tensors are there and what names them is half written."""
    write_state(tmp_path, FACTS, {"step": torch.tensor(1)})
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real, calls = checkpoint.write_atomic, []

    def write(path, content):
        calls.append(path)
        if len(calls) == 2:
            (path.parent / f".{path.name}.x").write_bytes(content[:10])  # as a killed process leaves it
            raise OSError("no space")
        return real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", write)
        with pytest.raises(OSError, match="no space"):
            write_state(tmp_path, FACTS, {"step": torch.tensor(2)})
    assert read_state(tmp_path)[1] == {"step": torch.tensor(1)}
    assert written.items() <= {path.name: path.read_bytes() for path in tmp_path.iterdir()}.items()
    write_state(tmp_path, FACTS, {"step": torch.tensor(3)})
    assert len(list(tmp_path.iterdir())) == 2  # nothing of what was written before


def test_tensors_are_a_file_that_any_reader_of_safetensors_opens(tmp_path):
    write_state(tmp_path, FACTS, STATE)
    (path,) = tmp_path.glob("*.safetensors")
    assert torch.equal(safetensors.torch.load_file(path)["1"], STATE["half"])
