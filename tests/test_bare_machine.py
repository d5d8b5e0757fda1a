"""What a GPU is tried with runs where little but torch and transformers is installed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

RUN = ["model=tiny_bert", "task=demo", "method=low_k", "train=fast", "protocol=smoke", "tracking=disabled"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run.py", *RUN], 0, "accuracy"),
        (["scripts/doctor.py"], 0, "ok  transformers"),
        (["-m", "scripts.benchmark", "cuda", "--parts", "steps"], 2, "CUDA device"),
        (
            ["-m", "pytest", "-q", "--collect-only", "-m", "gpu", "tests/test_gpu_fast.py"],
            0,
            "tests collected",
        ),
    ],
    ids=["run", "doctor", "bench-gpu", "pytest"],
)
def test_it_needs_no_more_than_a_bare_machine_has(repo, tmp_path, words, code, said):
    folders = [f"outputs_dir={tmp_path}", f"results_dir={tmp_path}"] if words[0] == "run.py" else []
    done = subprocess.run(
        [sys.executable, "tests/bare_machine.py", *words, *folders],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": "src", "CUDA_VISIBLE_DEVICES": ""},
        cwd=repo,
    )
    assert done.returncode == code, done.stderr[-2000:]
    assert said in done.stdout + done.stderr
