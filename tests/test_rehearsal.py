"""What needs a CUDA device, on a pretended one (`pretend_cuda.py`), each part in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="a pretended CUDA device needs g++"),
]


@pytest.mark.parametrize(
    "part",
    [
        "pretended/test_pretend_cuda.py",
        "pretended/test_captures.py",
        "pretended/test_device.py",
        "test_gpu_fast.py",
    ],
)
def test_it_holds_on_a_pretended_device(part):
    rehearse(part)


def test_every_way_of_training_runs_on_a_pretended_device():
    """A fast encoder and a published decoder; `make rehearsal` runs every method in all four ways."""
    rehearse("pretended/test_every_method.py")


def rehearse(part: str, *arguments: str) -> None:
    """Run tests of a CUDA device on a pretended one; what fails there fails here, with what it said."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "pretend_cuda"]
    source = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
    done = subprocess.run(
        [*command, "-m", "(gpu or pretended) and not whole", str(TESTS / part), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": source},
        cwd=TESTS.parent,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout, done.stdout[-500:]
