"""An installed wheel works far from the checkout: its configurations travel with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest


def call(*arguments, **options):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def site(repo, tmp_path_factory):
    """A folder into which the wheel is installed, made without a network and without dependencies."""
    root = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "configs"):
        shutil.copytree(repo / name, root / "source" / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repo / name, root / "source")
    pip = ("-m", "pip", "--disable-pip-version-check", "-q")
    offline = ("--no-deps", "--no-index")
    call(*pip, "wheel", *offline, "--no-build-isolation", "-w", str(root), str(root / "source"))
    (wheel,) = root.glob("*.whl")
    call(*pip, "install", *offline, "--target", str(root / "site"), str(wheel))
    return root / "site"


@pytest.mark.slow
def test_an_installed_wheel_trains_on_a_csv_in_an_empty_folder(site, tmp_path):
    rows = [f"a {word} film {i},{stars}" for i in range(20) for word, stars in (("good", 5), ("bad", 1))]
    (tmp_path / "reviews.csv").write_text("review,stars\n" + "\n".join(rows) + "\n")
    program = """
import layertune, sys
from layertune.config.compose import compose_run
from layertune.pipeline import execute
from layertune.records import Store
assert layertune.__file__.startswith(sys.argv[1]), layertune.__file__
run = compose_run("model=tiny_bert", "task=own", "own.train=reviews.csv", "own.text=review",
    "own.label=stars", "method=low_k", "method.k=2", "train=fast", "protocol=smoke",
    "tracking=disabled", "save=my-model")
record = execute(run, Store(run.results_dir, run.outputs_dir))
assert record.status == "done" and record.identity.git_commit is None
print(layertune.load("my-model").predict(["a good film"]))
"""
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = call("-c", program, str(site), cwd=tmp_path, env=environment)
    assert done.stdout.strip() in ("['1']", "['5']")
