"""The real clients against a hub on the loopback: whole or refused, and offline the second time."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants
from loopback_hub import Hub
from processes import forked
from tiny_runs import lasting

from layertune.config import ModelSpec, TaskSpec
from layertune.config.build import build_dataclass
from layertune.config.compose import compose_run
from layertune.errors import ConfigError, DataError, ModelError
from layertune.models import Backbone, load_model, load_tokenizer
from layertune.tasks.hub import read_hub

COMMIT = "86b5e0934494bd15c9632b12f734a8a67f723594"  # the one that configs/model/bert.yaml pins
BERT = ("models", "google-bert/bert-base-uncased")


@pytest.fixture(scope="module")
def bert_files(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> dict[str, bytes]:
    """The files of a BERT of twelve tiny layers."""
    folder = tmp_path_factory.mktemp("bert")
    tiny = yaml.safe_load((repo / "configs/model/tiny_bert.yaml").read_text())
    tiny["random_config"] |= {"num_hidden_layers": 12, "max_position_embeddings": 512}
    spec = build_dataclass(ModelSpec, {**tiny, "num_layers": 12}, "tiny")
    load_model(spec).save_pretrained(folder)
    load_tokenizer(spec)[0].save_pretrained(folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def hub(loopback_hub: Hub, bert_files: dict[str, bytes]) -> Hub:
    """A hub with that BERT, which the clients of this process ask, with an empty cache."""
    loopback_hub.repositories[BERT] = (COMMIT, dict(bert_files))
    return loopback_hub


@pytest.fixture
def bert(repo: Path) -> ModelSpec:
    values = yaml.safe_load((repo / "configs/model/bert.yaml").read_text())
    return build_dataclass(ModelSpec, values, "bert")


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()


def test_a_model_is_fetched_once_and_then_read_without_the_hub(hub, bert, monkeypatch):
    tokenizer, key = load_tokenizer(bert)
    model = load_model(bert)
    assert model.config.num_hidden_layers == 12 and Backbone(model, "first").commit == COMMIT
    assert not hub.asked("discussions|refs/convert|adapter_config")  # one set of weights, no other
    assert all(COMMIT in request for request in hub.asked("/resolve/"))
    asked = len(hub.log)
    offline(monkeypatch)
    again, same = load_tokenizer(bert)
    load_model(bert)
    assert same == key and again("the film")["input_ids"] == tokenizer("the film")["input_ids"]
    assert len(hub.log) == asked


# The link to a settings file is not missed: fetched before the vocabulary, it was never there.
@pytest.mark.parametrize(
    ("file", "lost"),
    [("tokenizer.json", "link"), ("tokenizer.json", "bytes"), ("tokenizer_config.json", "bytes")],
)
def test_half_a_tokenizer_is_completed_and_without_a_hub_refused(hub, bert, monkeypatch, file, lost):
    whole = load_tokenizer(bert)[1]
    (link,) = Path(constants.HF_HUB_CACHE).glob(f"models--*/snapshots/*/{file}")
    (link if lost == "link" else link.resolve()).unlink()
    offline(monkeypatch)
    with pytest.raises(ModelError, match="only a part"):
        load_tokenizer(bert)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()
    assert load_tokenizer(bert)[1] == whole


@pytest.mark.parametrize("marked", [True, False])
def test_a_part_that_another_program_left_is_completed_and_what_is_whole_asks_the_hub_once(
    hub, bert, bert_files, monkeypatch, marked
):
    words = "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "film", *map(str, range(200))])
    old = {"config.json": bert_files["config.json"], "vocab.txt": words.encode()}
    settings = {"tokenizer_config.json": b'{"do_lower_case": false}'}
    hub.repositories[BERT] = (COMMIT, old | ({} if marked else settings))
    for file in old:
        huggingface_hub.hf_hub_download(BERT[1], file, revision=COMMIT)
    load_tokenizer(bert)
    assert bool(hub.asked("GET .*/resolve/.*/tokenizer_config.json")) is not marked
    asked = len(hub.log)
    load_tokenizer(bert)
    assert len(hub.log) == asked
    offline(monkeypatch)
    load_tokenizer(bert)


@pytest.mark.parametrize(
    ("fault", "word"),
    [
        ({"GET .*/tokenizer.json": 500}, "500"),
        ({"api/models": 429}, "429"),
        ({"api/models": 403}, "hf auth login"),
        ({"GET .*/tokenizer_config.json": 403}, "hf auth login"),
        ({"^HEAD /$": 503, "api/models": 503}, "503"),
    ],
)
def test_a_failing_hub_is_one_sentence_with_its_cause_and_the_ways_out(hub, bert, fault, word):
    hub.faults = fault
    with pytest.raises(ModelError, match=word) as caught:
        load_tokenizer(bert)
    message = str(caught.value)
    assert "\n" not in message and all(way in message for way in ("model.path=<folder>", "minilm_l6"))


FAILING = [(429, "429"), (403, "hf auth login"), ("drop", "closed")]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients try again as often as they do, without waiting in between."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("fault", "word"), FAILING, ids=["busy", "gated", "dropped"])
def test_weights_that_a_failing_hub_does_not_give_are_one_sentence(hub, bert, fault, word):
    hub.faults = {"GET .*/resolve/.*/model.safetensors": fault}
    with pytest.raises(ModelError, match=word) as caught:
        load_model(bert)
    assert "\n" not in str(caught.value) and "model.path=<folder>" in str(caught.value)
    hub.faults = {}
    load_model(bert)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(("fault", "word"), FAILING, ids=["busy", "gated", "dropped"])
@pytest.mark.parametrize("name", ["dynahate", "sst2"])
def test_rows_that_a_failing_hub_does_not_give_are_one_sentence(hub, repo, name, fault, word):
    task = task_of(repo, name)
    hub.repositories["datasets", task.hub.id] = (task.hub.revision, ROWS[name])
    hub.faults = {"GET .*/resolve/.*(csv|jsonl)": fault}
    with pytest.raises(DataError, match=word) as caught:
        read_hub(task, "test")
    assert "\n" not in str(caught.value) and "data_dir=<folder>" in str(caught.value)
    hub.faults = {}
    assert len(read_hub(task, "test")[0]) == 1


def test_a_model_that_is_no_safetensors_is_read_as_it_is(hub, bert, bert_files):
    """transformers would ask a service to convert it, in a thread of its own, and take what that makes."""
    from safetensors.torch import load

    written = io.BytesIO()
    torch.save(load(bert_files["model.safetensors"]), written)
    files = {name: content for name, content in bert_files.items() if name != "model.safetensors"}
    hub.repositories[BERT] = (COMMIT, {**files, "pytorch_model.bin": written.getvalue()})
    load_tokenizer(bert)
    load_model(bert)
    assert not [thread.name for thread in threading.enumerate() if "conversion" in thread.name]
    assert not hub.asked("discussions|refs/|convert|POST") and hub.asked("pytorch_model.bin")


def named_to_delete(message: str) -> list[Path]:
    """Return the paths that a sentence asks to delete."""
    return [Path(word) for word in message.replace(",", " ").split() if word.startswith("/")]


def test_a_file_that_arrives_with_other_bytes_is_named_with_how_to_fetch_it_anew(hub, bert):
    hub.faults = {"GET .*/model.safetensors": "corrupt"}
    with pytest.raises(ModelError, match="damaged") as caught:
        load_model(bert)
    hub.faults = {}
    (damaged,) = named_to_delete(str(caught.value))
    damaged.unlink()
    load_model(bert)


def flip_a_bit(folder: str, file: str) -> Path:
    """Change one bit in the middle of a file of the cache; return where its bytes lie."""
    (link,) = Path(constants.HF_HUB_CACHE).glob(f"{folder}/snapshots/*/{file}")
    content = bytearray(link.read_bytes())
    content[len(content) // 2] ^= 1
    link.resolve().write_bytes(content)
    return link.resolve()


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_one_changed_bit_in_the_cache_is_noticed_and_the_file_fetched_anew(hub, bert, file):
    key = load_tokenizer(bert)[1]
    weights = {name: tensor.clone() for name, tensor in load_model(bert).state_dict().items()}
    changed = flip_a_bit("models--*", file)
    with pytest.raises(ModelError, match=f"{file} is damaged") as caught:
        load_tokenizer(bert)
        load_model(bert)
    assert named_to_delete(str(caught.value)) == [changed]
    changed.unlink()
    assert load_tokenizer(bert)[1] == key
    again = load_model(bert).state_dict()
    assert all(tensor.equal(again[name]) for name, tensor in weights.items())


def test_an_unknown_repository_and_revision_are_told_apart_from_a_dead_hub(hub, bert):
    with pytest.raises(ModelError, match="no such repository"):
        load_tokenizer(dataclasses.replace(bert, source="nobody/nothing"))


def test_a_checkpoint_that_lacks_tensors_is_called_incomplete(hub, bert, bert_files, tmp_path):
    from safetensors.torch import load, save

    tensors = load(bert_files["model.safetensors"])
    tensors.pop(next(name for name in tensors if "layer.3." in name))
    hub.repositories[BERT][1]["model.safetensors"] = save(tensors, {"format": "pt"})
    with pytest.raises(ModelError, match="incomplete"):
        load_model(bert)


def task_of(repo: Path, name: str) -> TaskSpec:
    spec = build_dataclass(TaskSpec, yaml.safe_load((repo / f"configs/task/{name}.yaml").read_text()), name)
    return dataclasses.replace(
        spec, counts={}, label_counts=None, meanings={}, hub=dataclasses.replace(spec.hub, counts={})
    )


ROWS = {
    "dynahate": {
        "DynaHate v0.2.3 - all.csv": b"text,label,split\na,hate,train\nb,nothate,test\nc,hate,dev\n",
        "DynaHate v0.2.2.csv": b"text\nwrong\n",
        "README.md": b"#",
    },
    "sst2": {f"{split}.jsonl": b'{"text": "a film", "label": 1}\n' for split in ("train", "dev", "test")},
    "olid": {
        "README.md": b"""---
configs:
- config_name: 1.0.0
  data_files: [{split: train, path: train.csv}, {split: test, path: test.csv}]
---
""",
        "train.csv": b"tweet,subtask_a\nd,OFF\ne,NOT\n",
        "test.csv": b"tweet,subtask_a\nf,OFF\n",
    },
}


@pytest.fixture
def rows_of_dynahate(hub, repo) -> TaskSpec:
    task = task_of(repo, "dynahate")
    hub.repositories["datasets", task.hub.id] = (task.hub.revision, ROWS["dynahate"])
    return task


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("olid_dynahate", {"train": ["d", "e"], "olid": ["f"], "dynahate": ["b"]}),
        ("dynahate_olid", {"train": ["a"], "dynahate": ["b"], "olid": ["f"]}),
    ],
)
def test_a_pair_of_domains_is_read_from_the_cache_the_second_time(hub, repo, monkeypatch, name, texts):
    for task in (domains := {own: task_of(repo, own) for own in ("olid", "dynahate")}).values():
        hub.repositories["datasets", task.hub.id] = (task.hub.revision, ROWS[task.name])
    run = compose_run(f"task={name}", "model=tiny_bert", "method=full")
    pair = dataclasses.replace(
        run.task,
        **{key: getattr(domains[run.task.data], key) for key in ("counts", "label_counts", "hub")},
        foreign={other: domains[other] for other in run.task.foreign},
    )

    def read() -> dict[str, list[str]]:
        rows = {"train": read_hub(pair, pair.train_split)}
        rows[pair.data] = read_hub(pair, pair.eval_split)
        rows |= {other: read_hub(task, task.eval_split) for other, task in pair.foreign.items()}
        return {part: list(found.texts[0]) for part, (found, *_) in rows.items()}

    assert read() == texts
    asked = len(hub.log)
    offline(monkeypatch)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert read() == texts and len(hub.log) == asked


def test_files_that_a_task_names_are_read_from_the_cache_the_second_time(hub, rows_of_dynahate, monkeypatch):
    first, _, revision = read_hub(rows_of_dynahate, "test")
    assert (list(first.texts[0]), first.labels.tolist()) == (["b"], [0])
    assert revision == rows_of_dynahate.hub.revision
    assert not hub.asked("0.2.2")
    asked = len(hub.log)
    offline(monkeypatch)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    second, *_ = read_hub(rows_of_dynahate, "train")
    assert list(second.texts[0]) == ["a"] and len(hub.log) == asked


def test_a_revision_that_is_not_pinned_is_recorded_as_it_was_resolved(hub, rows_of_dynahate):
    task = dataclasses.replace(rows_of_dynahate, hub=dataclasses.replace(rows_of_dynahate.hub, revision=None))
    assert read_hub(task, "test")[2] == rows_of_dynahate.hub.revision


def test_what_the_library_finds_by_itself_is_recorded_at_the_commit_that_it_read(hub, repo, monkeypatch):
    pinned = task_of(repo, "sst2")
    hub.repositories["datasets", pinned.hub.id] = (pinned.hub.revision, ROWS["sst2"])
    task = dataclasses.replace(pinned, hub=dataclasses.replace(pinned.hub, revision=None))
    assert read_hub(task, "test")[2] == pinned.hub.revision
    offline(monkeypatch)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert read_hub(task, "test")[2] == pinned.hub.revision


def test_rows_that_cannot_be_fetched_are_a_request_that_cannot_be_met(hub, rows_of_dynahate):
    hub.faults = {"GET .*0.2.3": 500}
    with pytest.raises(DataError, match="500") as caught:
        read_hub(rows_of_dynahate, "test")
    assert "data_dir=<folder>" in str(caught.value)


def test_one_changed_bit_in_files_that_a_task_names_is_noticed(hub, rows_of_dynahate):
    right = list(read_hub(rows_of_dynahate, "test")[0].texts[0])
    changed = flip_a_bit("datasets--*", "*0.2.3*")
    with pytest.raises(DataError, match="damaged") as caught:
        read_hub(rows_of_dynahate, "test")
    assert str(changed) in str(caught.value)
    changed.unlink()
    assert list(read_hub(rows_of_dynahate, "test")[0].texts[0]) == right


@pytest.mark.parametrize(
    "rows",
    [
        b'{"text": "a film of some length", "label": 1}',  # another letter in the middle
        b'{"label": 1, "text": "a film"}',  # and no JSON any more
    ],
)
def test_one_changed_bit_in_what_the_library_fetches_is_noticed_and_nothing_made_of_it_stays(hub, repo, rows):
    task = task_of(repo, "sst2")
    files = {"train.jsonl": rows, "dev.jsonl": rows}
    hub.repositories["datasets", task.hub.id] = (task.hub.revision, files)
    hub.faults = {"GET .*/train.jsonl": "flip"}
    with pytest.raises(DataError, match="damaged") as caught:
        read_hub(task, "train")
    hub.faults = {}
    with pytest.raises(DataError, match="damaged"):
        read_hub(task, "train")
    for path in named_to_delete(str(caught.value)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert list(read_hub(task, "train")[0].texts[0]) == [json.loads(rows)["text"]]


@pytest.mark.slow
def test_the_headline_command_runs_against_a_hub_and_offline_from_its_cache(hub, repo, tmp_path, monkeypatch):
    task = build_dataclass(TaskSpec, yaml.safe_load((repo / "configs/task/sst2.yaml").read_text()), "sst2")

    def lines(split: str) -> bytes:
        counts = (task.label_counts or {}).get(split) or {"negative": task.counts[split] // 2}
        negative = counts["negative"]
        row = '{"text": "a %s film, number %d", "label": %d}\n'
        rows = [row % (("bad", i, 0) if i < negative else ("good", i, 1)) for i in range(task.counts[split])]
        return "".join(rows).encode()

    files = {"train.jsonl": lines("train"), "dev.jsonl": lines("validation"), "README.md": b"# rows\n"}
    hub.repositories["datasets", task.hub.id] = (task.hub.revision, files)

    def run(name: str) -> tuple[str, Any]:
        out = tmp_path / name / "out"
        words = ("model=bert", "task=sst2", "method=low_k", "protocol=smoke", "tracking=disabled")
        done = forked(repo / "run.py", (*words, f"outputs_dir={out}", f"results_dir={out}"), tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        (path,) = out.glob("records/*.json")
        return done.stdout.split("training")[0], lasting(json.loads(path.read_text()))

    first = run("first")
    asked = len(hub.log)
    offline(monkeypatch)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    assert asked and run("second") == first and len(hub.log) == asked
    _, record = first
    assert record["status"] == "done" and record["data"]["revision"] == task.hub.revision
    assert record["model"]["revision"] == COMMIT and record["selection"]["layers"]


def test_nothing_known_of_a_hub_is_needed_to_say_that_it_is_off(bert, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        load_tokenizer(bert)
