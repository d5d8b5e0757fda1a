"""An installed wheel works far from the checkout: its configurations travel with it."""

from __future__ import annotations

import json
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
    for name in ("src", "configs", "results/landscapes"):
        shutil.copytree(repo / name, root / "source" / name, symlinks=True, ignore=ignored)
    (root / "source" / "results" / "landscapes" / "tiny_bert-demo-0.jsonl").write_text("no landscape\n")
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
    environment = {**os.environ, "PYTHONPATH": str(site)}
    options = ("--text", "review", "--label", "stars", "--k", "2", "--out", "my-model")
    program = f"""
import layertune, layertune.cli
try:
    layertune.cli.main(["fit", "tiny_bert", "reviews.csv", *{options}])
except SystemExit as end:
    assert not end.code, end.code
print(layertune.__file__, layertune.load("my-model").predict(["a good film"]))
"""
    shown = call("-c", program, cwd=tmp_path, env=environment).stdout
    assert "majority class" in shown
    assert shown.splitlines()[-1].startswith(str(site)) and shown.split()[-1] in ("['1']", "['5']")
    (record,) = (tmp_path / "outputs" / "runs").glob("*.json")
    assert json.loads(record.read_text())["identity"]["git_commit"] is None
    assert (site / "bin" / "layertune").is_file()


@pytest.mark.slow
def test_an_installed_wheel_carries_the_landscapes_of_its_checkout(site, tmp_path):
    program = "from layertune.landscape import load; load('tiny_bert', 'demo')"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert str(site / "layertune" / "landscapes" / "tiny_bert-demo-0.jsonl") in done.stderr  # found, and read
