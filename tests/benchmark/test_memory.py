"""Peak memory of a step: whose it is, and what of the heap does not count."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from layertune.benchmark import memory
from layertune.benchmark.arms import Setting, bert_base, loop_arms
from layertune.tasks import TokenStore

TINY = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2, "vocab_size": 20000}


def test_peak_memory_is_that_of_a_step_with_freed_tensors_given_back(tmp_path, monkeypatch):
    shapes = []
    real = TokenStore.batch

    def seen(*args):
        shapes.append(real(*args).input_ids.shape)
        return real(*args)

    monkeypatch.setattr(TokenStore, "batch", seen)
    monkeypatch.setattr(memory, "give_back", lambda: True)  # it would hold for all other tests
    arm = next(arm for arm in loop_arms() if arm.name == "g10")
    found = memory.measure_memory(Setting(bert_base(**TINY), "sst2_glue", tmp_path), arm)
    assert found["given_back"]
    assert found["bytes"] >= found["before"] > 0  # equal where the tests before left room for a tiny model
    assert set(shapes) == {(32, 128)}
    assert (found["arm"], found["lowest"]) == ("g10", 10)


@pytest.mark.parametrize("missing", [SimpleNamespace(), None])
def test_where_there_is_no_mallopt_it_is_said(missing, monkeypatch, caplog):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: missing)
    assert not memory.give_back()
    assert "no mallopt here" in caplog.text


def test_freed_blocks_go_back_to_the_system(tmp_path):
    code = (
        "from layertune.benchmark.memory import give_back; import ctypes; found = give_back(); "
        "print(int(found or not hasattr(ctypes.CDLL(None), 'mallopt')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
