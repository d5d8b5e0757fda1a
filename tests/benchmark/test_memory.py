"""Peak memory of a step: whose it is, and what of the heap does not count."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
from tiny_bench import TINY

from layertune.tasks import TokenStore
from scripts.benchmark import step
from scripts.benchmark.arms import ARMS, Setting, bert_base


def test_peak_memory_is_that_of_a_step_with_freed_tensors_given_back(tmp_path, monkeypatch):
    shapes = []
    real = TokenStore.batch

    def seen(*args):
        shapes.append(real(*args).input_ids.shape)
        return real(*args)

    monkeypatch.setattr(TokenStore, "batch", seen)
    monkeypatch.setattr(step, "give_back", lambda: True)  # it would hold for all other tests
    arm = ARMS["published_top3"]
    found = step.measure_memory(Setting(bert_base(**TINY), "sst2_glue", tmp_path), arm)
    assert found["given_back"]
    assert (
        found["before"] > 0
    )  # equal where the tests before left room for a tiny model, give or take some pages
    assert found["bytes"] >= found["before"] - 2**20
    assert set(shapes) == {(32, 128)}
    assert (found["arm"], found["lowest"]) == ("published_top3", 10)


@pytest.mark.parametrize("missing", [SimpleNamespace(), None])
@pytest.mark.parametrize("setting", [step.give_back, step.keep_freed])
def test_where_there_is_no_mallopt_it_is_said(setting, missing, monkeypatch, caplog):
    monkeypatch.setattr(step.ctypes, "CDLL", lambda _: missing)
    assert not setting()
    assert "no mallopt here" in caplog.text


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library is not glibc")
@pytest.mark.parametrize(("setting", "stays"), [("give_back", False), ("keep_freed", True)])
def test_freed_blocks_go_back_to_the_system_or_stay(setting, stays, repo):
    code = (
        f"import numpy as np; from scripts.benchmark import step; assert step.{setting}()\n"
        "import resource; page = resource.getpagesize()\n"
        "resident = lambda: int(open('/proc/self/statm').read().split()[1]) * page\n"
        "before = resident(); block = np.ones(20 << 20, np.uint8); del block; print(resident() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=repo)
    assert (int(done.stdout) > 15 << 20) == stays
