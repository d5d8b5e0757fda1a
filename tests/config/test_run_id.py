"""Run ids, and the keys of the data and the weights that answer: known before a row is read."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layertune.config import RunConfig, files
from layertune.config.identity import data_key, identity_of, run_id, sha256_of, weights_key

Build = Callable[..., RunConfig]

HUB = {
    "task.source": "hub",
    "task.hub": {"id": "stanfordnlp/sst2", "revision": "8d51e7e"},
}


def test_a_run_id_says_model_task_method_k_seed_and_a_hash(build: Build) -> None:
    assert re.fullmatch(r"tiny_bert-demo-low_k-k3-s42-[0-9a-f]{8}", build({"seed": 42}).run_id)
    full = {"method": {"name": "full", "kind": "full", "scorer": None, "selector": None, "k": None}}
    assert re.fullmatch(r"tiny_bert-demo-full-s0-[0-9a-f]{8}", build(full).run_id)


def test_run_id_and_its_property_agree(build: Build) -> None:
    run = build()
    assert run.run_id == run_id(run)
    assert run.identity() == identity_of(run)


def test_the_hash_of_a_run_id_covers_configuration_data_and_weights(build: Build) -> None:
    run = build(HUB)
    digest = sha256_of([run.config_sha256, data_key(run), weights_key(run)])
    assert run.run_id.endswith("-" + digest[:8])
    others = [
        build({**HUB, "train.epochs": 4}),
        build({**HUB, "task.hub": {"id": "stanfordnlp/sst2", "revision": "another"}}),
        build({**HUB, "model.random_config": {"hidden_size": 64}}),
    ]
    assert len({run.run_id, *(other.run_id for other in others)}) == 4
    assert [other.config_sha256 == run.config_sha256 for other in others] == [False, True, True]


def test_data_keys_name_the_hub_at_its_revision(build: Build) -> None:
    assert data_key(build(HUB)) == "hub:stanfordnlp/sst2/default@8d51e7e"
    unpinned = {"task.source": "hub", "task.hub": {"id": "nyu-mll/glue", "config": "rte"}}
    assert data_key(build(unpinned)) == "hub:nyu-mll/glue/rte@main"
    foreign = {"name": "imdb", "hub": {"id": "stanfordnlp/imdb", "revision": "e6"}, "labels": ["no", "yes"]}
    pair = build({**HUB, "task.foreign": {"imdb": foreign}})
    assert data_key(pair) == "hub:stanfordnlp/sst2/default@8d51e7e,hub:stanfordnlp/imdb/default@e6"


def test_generated_data_and_random_weights_have_keys_of_their_own(build: Build, tmp_path: Path) -> None:
    run = build({"data_dir": str(tmp_path)})  # a folder plays no part in generated data
    assert data_key(run) == "synthetic:demo@grammar-1"
    assert weights_key(run) == "random:" + sha256_of({"hidden_size": 32})
    hub = build({"model.source": "google-bert/bert-base-uncased", "model.revision": "86b5"})
    assert weights_key(hub) == "hub:google-bert/bert-base-uncased@86b5"


@pytest.fixture
def local(tmp_path: Path, build: Build) -> Callable[..., RunConfig]:
    """Return a builder of runs on a folder of local files, which it fills when first called."""
    folder = tmp_path / "data"
    (folder / "demo").mkdir(parents=True)
    (folder / "demo" / "train.csv").write_text("sentence,label\nfine,1\n")
    (folder / "demo" / "validation.csv").write_text("sentence,label\npoor,0\n")

    def built(changes: dict[str, Any] | None = None, data: Path = folder) -> RunConfig:
        outputs = {"outputs_dir": str(tmp_path / "outputs")}
        return build({**HUB, "data_dir": str(data), **outputs, **(changes or {})})

    return built


def test_local_data_are_known_by_their_content(local: Build, tmp_path: Path) -> None:
    first = local()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", data_key(first))
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    copied = local(data=tmp_path / "copy")
    assert data_key(copied) == data_key(first)
    assert copied.run_id == first.run_id  # where the files lie changes nothing
    for name in ("train.csv", "validation.csv"):
        other = tmp_path / f"other-{name}"
        shutil.copytree(tmp_path / "data", other)
        (other / "demo" / name).write_text("sentence,label\nchanged,1\n")
        changed = local(data=other)
        assert data_key(changed) != data_key(first)
        assert changed.run_id != first.run_id
        assert changed.config_sha256 == first.config_sha256


def test_splits_that_change_places_change_the_key(local: Build, tmp_path: Path) -> None:
    before = data_key(local())
    folder = tmp_path / "data" / "demo"
    train, evaluation = (folder / name for name in ("train.csv", "validation.csv"))
    rows = train.read_bytes(), evaluation.read_bytes()
    train.write_bytes(rows[1])
    evaluation.write_bytes(rows[0])
    assert data_key(local()) != before


def test_files_that_a_run_does_not_read_are_not_in_its_key(local: Build, tmp_path: Path) -> None:
    before = data_key(local())
    (tmp_path / "data" / "demo" / "test.csv").write_text("sentence,label\nunread,1\n")
    (tmp_path / "data" / "demo" / "manifest.json").write_text("{}")
    assert data_key(local()) == before
    held_out = {"protocol.holdout": 10}
    key = data_key(local(held_out))
    (tmp_path / "data" / "demo" / "validation.csv").write_text("sentence,label\nunread,1\n")
    assert data_key(local(held_out)) == key


def test_what_a_manifest_makes_of_the_labels_is_in_the_key(local: Build, tmp_path: Path) -> None:
    before = data_key(local())
    manifest = tmp_path / "data" / "manifest.json"
    labels = list(local().task.labels)
    for names, same in ((labels, True), (labels[::-1], False)):
        entry = {"label_names": names}
        manifest.write_text(json.dumps({"files": {"demo/train.csv": entry, "demo/validation.csv": entry}}))
        assert (data_key(local()) == before) == same


def test_local_weights_are_known_by_their_content(build: Build, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    for name, content in {"config.json": "{}", "model.safetensors": "w", "vocab.txt": "a"}.items():
        (folder / name).write_text(content)
    outputs = {"outputs_dir": str(tmp_path / "outputs")}
    run = build({"model.path": str(folder), **outputs})
    key = weights_key(run)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", key)
    (folder / "README.md").write_text("not read by the model")
    assert weights_key(run) == key
    seen = {key}
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        (folder / name).write_text(json.dumps({name: "changed"}))
        seen.add(weights_key(run))
    assert len(seen) == 4
    assert build({"model.path": str(folder), **outputs}).config_sha256 == build().config_sha256


def test_a_large_file_is_hashed_once_per_content(
    local: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "data" / "demo" / "train.csv"
    hashed: list[str] = []
    real = files.file_sha256

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return real(path)

    monkeypatch.setattr(files, "file_sha256", counted)
    with large.open("wb") as stream:
        stream.truncate((1 << 24) + 1)
    first = data_key(local())
    assert data_key(local()) == first
    assert hashed.count("train.csv") == 1
    at = large.stat()
    with large.open("r+b") as stream:  # the same size, another content
        stream.write(b"x")
    os.utime(large, ns=(at.st_atime_ns, at.st_mtime_ns))  # as cp -p and rsync -t do
    assert data_key(local()) != first


def test_a_hash_kept_for_another_file_is_not_taken(local: Build, tmp_path: Path) -> None:
    train, evaluation = (tmp_path / "data" / "demo" / f"{name}.csv" for name in ("train", "validation"))
    for path, content in ((train, b"x"), (evaluation, b"y")):
        path.write_bytes(content + bytes(1 << 24))
    key = data_key(local())
    one, other = (tmp_path / "outputs" / "cache" / "file_sha256").iterdir()
    one.write_bytes(other.read_bytes())
    assert data_key(local()) == key
