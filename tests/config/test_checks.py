"""What cannot run is refused before anything heavy is imported, in one sentence that says what is allowed."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layertune.config import RunConfig
from layertune.config.files import resolved_data_dir
from layertune.errors import ConfigError

Build = Callable[..., RunConfig]

NAN, INF = float("nan"), float("inf")
HUB = {"task.source": "hub", "task.hub": {"id": "someone/demo", "revision": "abc"}}
LABELS = {"labels": ["no", "yes"]}
FOREIGN = {"name": "other", "hub": {"id": "someone/other"}, "eval_split": "test", **LABELS}


def refused(build: Build, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(changes)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("k", [0, -1, 4, 12])
def test_k_lies_between_one_and_the_number_of_layers_less_one(build: Build, k: int) -> None:
    refused(
        build,
        {"method.k": k},
        f"method.k={k} is out of range: model=tiny_bert has 4 layers, so k is between 1 and 3.",
    )


@pytest.mark.parametrize("k", [1, 3])
def test_the_smallest_and_the_largest_k_are_allowed(build: Build, k: int) -> None:
    assert build({"method.k": k}).method.k == k


def test_a_selection_without_k_is_refused(build: Build) -> None:
    refused(build, {"method.k": None}, "method=low_k needs method.k, between 1 and 3.")


def test_a_model_that_does_not_say_its_layers_is_refused(build: Build) -> None:
    refused(build, {"model.num_layers": 0}, "model=tiny_bert does not say model.num_layers")


def test_an_encoder_does_not_generate(build: Build) -> None:
    generation = {"task.kind": "generation", "task.metric": "bleu", "task.metrics": []}
    refused(
        build,
        generation,
        "task=demo generates text and model=tiny_bert is an encoder: choose a decoder, for example model=",
    )
    assert build({**generation, "model.family": "decoder"}).task.kind == "generation"


@pytest.mark.parametrize(
    ("key", "allowed", "refused_values"),
    [
        *[
            (key, [1, 1000], [0, -1, 10**10, 10**30])
            for key in (
                "train.epochs",
                "train.batch_size",
                "train.eval_batch_size",
                "train.num_threads",
                "checkpoint.every_steps",
                "scoring.batch_size",
                "scoring.examples",
                "protocol.train_examples",
                "protocol.eval_examples",
                "protocol.holdout",
                "protocol.max_steps",
                "task.decoding.num_beams",
                "task.decoding.max_new_tokens",
            )
        ],
        ("train.micro_batch", [1, 8], [0, -1, 10**10]),
        ("train.num_threads", [64], [100_000]),
        ("protocol.warmup_steps", [0, 20], [-1]),
        ("task.decoding.no_repeat_ngram", [0], [-1]),
        ("task.max_length", [8, 512], [1, 7]),
        ("seed", [0, 2**32 - 1], [-1, 2**32]),
        ("train.learning_rate", [1e-5, 0.5], [0.0, -1e-5, 1.0, 20.0, NAN]),
        ("train.head_learning_rate", [1e-5], [0.0, 1.0, NAN]),
        ("train.warmup_ratio", [0.0, 0.1], [-0.1, 1.0, NAN]),
        ("train.weight_decay", [0.0, 0.1], [-0.1, 1.0, INF]),
        ("train.label_smoothing", [0.0], [-0.1, 1.0, NAN]),
        ("model.head_dropout", [0.0], [-0.1, 1.0, NAN]),
        ("train.betas", [[0.9, 0.99]], [[0.9], [0.9, 1.0], [0.9, NAN], [0.9, 0.99, 0.9]]),
        ("train.clip_norm", [None, 1, 0.5], [0, -1.0, NAN, INF]),
        ("cache.max_gb", [0, 20], [-1, NAN, INF]),
        ("task.decoding.length_penalty", [0.8, -1.0], [NAN, INF, 1e300]),
        ("task.label_range", [[0, 5], []], [[5, 0], [0], [0, NAN]]),
        ("model.precisions", [["fp32"]], [[], ["fp64"]]),
        ("task.metric", ["accuracy"], ["nope", "bleu", ""]),
        ("task.best_by", [None, "accuracy"], ["nope", "pearson", "mcc"]),
        ("task.labels", [["no", "yes"]], [[], ["yes"], ["yes", "yes"], ["", "yes"]]),
        ("task.columns", [["text"]], [[], ["a", "a"], ["a", "b", "c"]]),
        *[
            (f"{group}.name", ["a", "x-1.b_c"], ["a/b", "..", ".", "a b", "ü", "a\nb", "x" * 300, "-x"])
            for group in ("model", "task", "method", "protocol")
        ],
        ("task.data", ["sst2", None], ["../x", ""]),
        ("task.eval_split", ["validation"], ["../validation", ""]),
        ("tracking.project", ["layertune"], ["a/b", "", "x" * 300]),
        ("model.title", ["BERT ü", "two\nlines"], ["", "  ", "\x07", "\udcff"]),
        ("results_dir", ["results", "/tmp/a b/ü"], ["", "a\0b", "\udcff", "a\nb"]),
        ("outputs_dir", ["outputs", "/", "a/" * 50], ["", "x" * 5000, "x" * 256, "/a/" + "ü" * 128]),
        ("model.source", ["gpt2", "org/name", "random"], ["/home/me/bert", "../bert", "a/b/c", ""]),
    ],
)
def test_each_field_says_what_it_takes(
    build: Build, key: str, allowed: list[Any], refused_values: list[Any]
) -> None:
    for value in allowed:
        build({key: value})
    for value in refused_values:
        refused(build, {key: value}, key)


@pytest.mark.parametrize("group", ["model", "task", "method"])
def test_a_group_without_a_name_was_not_given(build: Build, group: str) -> None:
    refused(build, {f"{group}.name": ""}, f"No {group} given")


def test_what_a_field_takes_is_said_in_words(build: Build) -> None:
    refused(build, {"train.epochs": 0}, "train.epochs takes an integer from 1 to 1,000,000,000")
    refused(build, {"train.learning_rate": 1.0}, "takes a number above 0 and below 1")
    refused(build, {"train.weight_decay": 1.0}, "takes a number from 0 to below 1")
    refused(build, {"train.betas": [0.9, 1.0]}, "train.betas[1]=1.0 is not allowed")
    refused(build, {"model.name": "a/b"}, "letters, digits")


def test_numbers_that_no_type_holds_are_refused_wherever_they_stand(build: Build) -> None:
    for value in (NAN, INF, 10**30):
        refused(build, {"model.random_config": {"model_type": "bert", "hidden_size": value}}, "hidden_size")
        refused(build, {"task.counts": {"train": value}}, "task.counts.train")


def test_a_foreign_task_has_as_many_labels(build: Build) -> None:
    three = {**FOREIGN, "labels": ["a", "b", "c"]}
    refused(build, {"task.foreign": {"other": three}}, "2 against 3 labels")
    build({"task.foreign": {"other": FOREIGN}})


def test_metrics_are_those_of_the_kind_of_task(build: Build) -> None:
    refused(build, {"task.metrics": ["accuracy", "pearson"]}, "pearson")
    refused(build, {"task.labels": ["a", "b", "c"], "task.metrics": ["f1_binary"]}, "f1_binary")
    refused(build, {"task.kind": "regression"}, "accuracy")
    scores = {"task.kind": "regression", "task.metric": "pearson", "task.metrics": []}
    assert build(scores).task.metric == "pearson"


def test_a_micro_batch_divides_the_batch(build: Build) -> None:
    refused(
        build,
        {"train.batch_size": 32, "train.micro_batch": 12},
        "train.micro_batch=12 does not divide train.batch_size=32.",
    )
    refused(build, {"train.micro_batch": 64}, "does not divide train.batch_size=32.")
    assert build({"train.batch_size": 32, "train.micro_batch": 8}).train.micro_batch == 8


def test_a_precision_is_one_that_the_model_can_do(build: Build) -> None:
    refused(
        build,
        {"model.precisions": ["fp32"], "train.precision": "bf16"},
        "train.precision=bf16 does not work with model=tiny_bert: allowed fp32.",
    )
    assert build({"train.precision": "bf16"}).train.precision == "bf16"


def test_an_input_fits_the_positions_of_the_model(build: Build) -> None:
    refused(
        build,
        {"task.max_length": 513},
        "task.max_length=513 is longer than the 512 positions of model=tiny_bert.",
    )
    assert build({"task.max_length": 512}).task.max_length == 512
    assert build({"task.max_length": 9999, "model.max_positions": None}).task.max_length == 9999


def test_only_a_method_with_a_scorer_can_score(build: Build) -> None:
    refused(
        build,
        {"stage": "score", "method.scorer": None, "method.selector": "random"},
        "stage=score needs a method that scores layers and method=low_k does not: choose for example high_k",
    )
    assert build({"stage": "score"}).stage == "score"


def test_a_control_replaces_what_is_scored_and_nothing_is_trained_on_it(build: Build) -> None:
    assert build({"task.control": "unk", "stage": "score"}).task.control == "unk"
    refused(
        build,
        {"task.control": "random"},
        "task.control=random replaces the texts that are scored: it needs stage=score",
    )


@pytest.mark.parametrize(
    ("scorer", "reason"),
    [("cosine", "scores by cosine, which does not read it"), (None, "scores no layers")],
)
def test_the_tokens_to_score_without_effect_cost_a_warning(
    build: Build, caplog: pytest.LogCaptureFixture, scorer: str | None, reason: str
) -> None:
    build({"scoring.tokens": "representative", "method.scorer": scorer})
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage() == f"scoring.tokens=representative has no effect: method=low_k {reason}."


@pytest.mark.parametrize("scorer", ["io_cosine", "feature_variance"])
def test_the_tokens_to_score_are_read_by_some_scorers(
    build: Build, caplog: pytest.LogCaptureFixture, scorer: str
) -> None:
    build({"scoring.tokens": "representative", "method.scorer": scorer})
    build({"scoring.tokens": "all", "method.scorer": "cosine"})
    assert caplog.records == []


# -- weights and data that are not there --------------------------------------------------------------------


def test_a_folder_of_weights_exists_and_is_complete(build: Build, tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    path = {"model.path": str(folder)}
    refused(build, path, f"model.path={folder} is not a folder: give model.path a folder written by")
    folder.mkdir()
    refused(build, path, f"{folder} holds no config.json")
    (folder / "config.json").write_text("{}")
    refused(build, path, f"{folder} holds no weights (model.safetensors or pytorch_model.bin)")
    (folder / "model.safetensors").write_bytes(b"x")
    assert build(path).model.path == str(folder)


@pytest.mark.parametrize("key", ["model.path", "data_dir"])
def test_a_home_folder_that_does_not_exist_is_named(build: Build, key: str) -> None:
    refused(build, {key: "~nobody-of-this-name/x"}, key)


def test_a_package_that_carries_weights_is_installed(build: Build) -> None:
    refused(
        build,
        {"model.source": "package:no_such_package:weights"},
        "model=tiny_bert takes its weights from the Python package no_such_package, which is not installed",
    )
    refused(build, {"model.source": "package:pytest"}, "it reads package:<import name>:<folder>.")
    refused(build, {"model.source": "package:_pytest:nowhere"}, "_pytest holds no folder nowhere")


def test_a_data_folder_exists_under_either_name(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing"
    refused(build, {**HUB, "data_dir": str(missing)}, f"data_dir={missing} is not a folder")
    monkeypatch.setenv("LAYERTUNE_DATA", str(missing))
    refused(build, HUB, f"LAYERTUNE_DATA={missing} is not a folder")
    monkeypatch.setenv("LAYERTUNE_DATA", "")
    build(HUB)


def test_the_folder_on_the_command_line_goes_before_that_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("given", "environment"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("LAYERTUNE_DATA", str(tmp_path / "environment"))
    assert resolved_data_dir(str(tmp_path / "given")) == tmp_path / "given"
    assert resolved_data_dir(None) == tmp_path / "environment"


def test_a_home_folder_that_is_not_there_is_no_folder(build: Build) -> None:
    refused(build, {**HUB, "data_dir": "~nobody-here/data"}, "data_dir=~nobody-here/data is not a folder")
    refused(build, {"model.path": "~nobody-here/bert"}, "model.path=~nobody-here/bert is not a folder")


def test_a_data_folder_holds_the_splits_that_the_run_reads(build: Build, tmp_path: Path) -> None:
    run = {**HUB, "data_dir": str(tmp_path)}
    refused(
        build,
        run,
        f"No file for the train split of demo in {tmp_path / 'demo'}; looked for train.parquet, train.csv, "
        "train.tsv, train.jsonl.",
    )
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "train.csv").touch()
    refused(build, run, "No file for the validation split of demo")
    build({**run, "protocol.holdout": 10})  # a held-out part of train takes its place
    refused(build, {**run, "task.eval_split": "test"}, "No file for the test split of demo")
    (tmp_path / "demo" / "validation.jsonl").touch()
    build(run)
    refused(build, {**run, "task.foreign": {"other": FOREIGN}}, "No file for the test split of other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "test.tsv").touch()
    build({**run, "task.foreign": {"other": FOREIGN}})


def test_rows_are_looked_for_below_the_name_of_the_data(build: Build, tmp_path: Path) -> None:
    refused(build, {**HUB, "task.data": "sst2", "data_dir": str(tmp_path)}, "the train split of sst2")


def test_a_task_that_is_not_on_the_hub_asks_for_a_folder(build: Build) -> None:
    refused(build, {"task.source": "hub"}, "task=demo is not on the hub: give data_dir=<folder>")
    foreign = {**FOREIGN, "hub": None, "data": "imdb"}
    refused(
        build,
        {**HUB, "task.foreign": {"other": foreign}},
        "task=other is not on the hub: give data_dir=<folder> that holds imdb/<split>.csv.",
    )


def test_generated_data_need_no_folder(build: Build, tmp_path: Path) -> None:
    assert build({"data_dir": str(tmp_path)}).task.source == "synthetic"


def test_the_configuration_imports_nothing_heavy() -> None:
    code = (
        "import sys; from layertune.config import RunConfig; "
        "print([m for m in ('torch', 'numpy', 'hydra', 'omegaconf', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"save": "{folder}/full"}, "not empty"),
        ({"save": "{folder}/file"}, "is a file"),
        ({"save": "{folder}/new", "stage": "score"}, "trains none"),
        ({"save": "{folder}/new", "merge": True, "head": "standard"}, "nothing to fold"),
        ({"save": "{folder}/new", "merge": True}, "head=standard"),
        ({"save": "{folder}/new", "save_epoch": "best", "protocol.evaluate": False}, "save_epoch=last"),
        ({"save": "{folder}/new", "save_epoch": "best", "protocol.every_epoch": False}, "save_epoch=last"),
        ({"head": "standard", "model.last_layer": "raw"}, "head=concat"),
        ({"head": "standard", "model.rep_norm": "rms"}, "head=concat"),
    ],
)
def test_a_model_that_cannot_be_kept_or_built_is_refused(
    build: Build, tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    given = {
        key: value.format(folder=tmp_path) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    with pytest.raises(ConfigError, match=word):
        build(given)
    assert not (tmp_path / "new").exists() and (tmp_path / "full" / "thesis.txt").read_text() == "mine"
