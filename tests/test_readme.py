"""The README tells the truth: its commands compose, its targets exist, its script runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from itertools import product

import pytest

from layertune.config.compose import compose_run
from layertune.records import read_record
from layertune.report.summary import compare


@pytest.fixture(scope="module")
def readme(repo):
    return (repo / "README.md").read_text(encoding="utf-8")


def expanded(argument):
    """Turn one sweep argument into its values: `seed=0,42` or `method.k=range(1,12)`."""
    key, _, value = argument.partition("=")
    if found := re.fullmatch(r"range\((\d+),(\d+)\)", value):
        return [f"{key}={number}" for number in range(int(found[1]), int(found[2]))]
    return [f"{key}={one}" for one in value.split(",")]


def test_every_run_of_the_readme_composes(readme):
    commands = re.findall(r"^python run\.py (.+)$", readme, flags=re.M)
    assert len(commands) >= 5
    for command in commands:
        words = [word for word in shlex.split(command, comments=True) if word not in ("-m", "--cfg", "job")]
        choices = [expanded(word) for word in words]
        for first_and_last in (0, -1):
            compose_run(*(choice[first_and_last] for choice in choices))
        assert all(one for one in product(*choices))


def test_every_make_target_of_the_readme_exists(readme, repo):
    targets = set(re.findall(r"^([a-z-]+):", (repo / "Makefile").read_text(), flags=re.M))
    named = set(re.findall(r"make ([a-z-]+)", readme))
    assert named and named <= targets


def test_every_file_of_the_readme_exists(readme, repo):
    linked = set(re.findall(r"\]\(([^)#]+)\)", readme)) | set(re.findall(r"python (scripts/\S+\.py)", readme))
    assert linked and all((repo / name).exists() for name in linked)


def test_the_table_is_what_the_records_say(readme, repo):
    for name, task in (("README.md", "trec"), ("results/README.md", "trec"), ("results/README.md", "cr")):
        records = [
            read_record(path) for path in sorted((repo / "results/runs").glob(f"gte_small-{task}-*.json"))
        ]
        assert compare(records) in (repo / name).read_text(encoding="utf-8")


def test_every_choice_is_listed(readme, repo):
    """Paper: silent; code: `Choice:`; README: one row each (the wording is free, the count is not)."""
    rows = readme.split("## Where the paper is silent")[1].split("## ")[0].count("\n| ") - 1
    choices = sum(
        path.read_text(encoding="utf-8").count("Choice:")
        for folder in ("src", "configs")
        for path in (repo / folder).rglob("*")
        if path.suffix in (".py", ".yaml")
    )
    assert rows >= choices


@pytest.mark.slow
def test_the_script_of_the_readme_runs(readme, tmp_path):
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "dull", "film"])
    )
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    (script,) = re.findall(r"```python\n(.+?)```", readme, flags=re.S)
    script = script.replace("google-bert/bert-base-uncased", str(folder))
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"training layers \(\d, \d, \d\): [\d,]+ parameters", done.stdout)
