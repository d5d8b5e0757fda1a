"""What a GPU is tried with runs where little but torch and transformers is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

RUN = ["model=tiny_bert", "task=demo", "method=low_k", "train=fast", "protocol=smoke", "tracking=disabled"]
# name -> words after `python`, exit code, what is said
PROGRAMS = {
    "run": (["run.py", *RUN], 0, "accuracy"),
    "doctor": (["scripts/doctor.py"], 0, "ok  transformers"),
    "bench-gpu": (["-m", "scripts.benchmark", "cuda", "--parts", "steps"], 2, "CUDA device"),
    "pytest": (
        ["-m", "pytest", "-q", "--collect-only", "-m", "gpu", "tests/test_gpu_fast.py"],
        0,
        "tests collected",
    ),
}


def on_a_bare_machine() -> None:
    """Run the programs, each in a process of its own; print name -> exit code, output and errors as JSON."""
    from bare_machine import hide_the_rest, run

    hide_the_rest()
    from processes import import_what_runs_need, in_a_process

    import_what_runs_need()
    with tempfile.TemporaryDirectory() as folder:
        folders = [f"outputs_dir={folder}", f"results_dir={folder}"]
        ends = {
            name: in_a_process(partial(run, words + folders * (name == "run")), Path.cwd())
            for name, (words, _, _) in PROGRAMS.items()
        }
    print(json.dumps(ends))


@pytest.fixture(scope="module")
def ends(repo):
    """How each program ended: all are forked from one interpreter that finds little."""
    done = subprocess.run(
        [sys.executable, "-c", "from test_bare_machine import on_a_bare_machine; on_a_bare_machine()"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["tests", "src"]), "CUDA_VISIBLE_DEVICES": ""},
        cwd=repo,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_needs_no_more_than_a_bare_machine_has(ends, name):
    _, code, said = PROGRAMS[name]
    returncode, out, err = ends[name]
    assert returncode == code, err[-2000:]
    assert said in out + err
