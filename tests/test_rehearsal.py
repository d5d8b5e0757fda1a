"""What needs a CUDA device, on a pretended one (`pretend_cuda.py`), in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PARTS = ("test_gpu_fast.py", "pretended")


@pytest.mark.slow(tests=65)  # in one: it begins first
@pytest.mark.skipif(shutil.which("g++") is None, reason="a pretended CUDA device needs g++")
def test_what_needs_a_cuda_device_holds_on_a_pretended_one():
    """What fails there fails here, with what it said; `make rehearsal` runs every method in all four ways."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pretend_cuda"]
    chosen = ["-m", "(gpu or pretended) and not whole", *(str(TESTS / part) for part in PARTS)]
    done = subprocess.run(
        [*command, *chosen],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])},
        cwd=TESTS.parent,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout, done.stdout[-500:]
