"""What cannot run is refused before anything heavy is imported, in one sentence that says what is allowed."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layertune.config import ConfigError, RunConfig
from layertune.config.files import resolved_data_dir

Build = Callable[..., RunConfig]

HUB = {"task.source": "hub", "task.hub": {"id": "someone/demo", "revision": "abc"}}
FOREIGN = {"name": "other", "source": "hub", "hub": {"id": "someone/other"}, "eval_split": "test"}


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
        f"method.k={k} is out of range: tiny_bert has 4 layers, so k is between 1 and 3.",
    )


@pytest.mark.parametrize("k", [1, 3])
def test_the_smallest_and_the_largest_k_are_allowed(build: Build, k: int) -> None:
    assert build({"method.k": k}).method.k == k


def test_a_selection_without_k_is_refused(build: Build) -> None:
    refused(build, {"method.k": None}, "method=low_k needs method.k, between 1 and 3.")


def test_a_model_that_does_not_say_its_layers_is_refused(build: Build) -> None:
    refused(build, {"model.num_layers": 0}, "model=tiny_bert does not say model.num_layers")


def test_an_encoder_does_not_generate(build: Build) -> None:
    generation = {"task.kind": "generation"}
    refused(
        build,
        generation,
        "task=demo generates text and model=tiny_bert is an encoder: choose a decoder, for example model=",
    )
    assert build({**generation, "model.family": "decoder"}).task.kind == "generation"


@pytest.mark.parametrize(
    "key",
    [
        "train.epochs",
        "train.batch_size",
        "train.micro_batch",
        "train.eval_batch_size",
        "train.num_threads",
        "checkpoint.every_steps",
        "scoring.batch_size",
        "scoring.examples",
        "task.max_length",
        "protocol.train_examples",
        "protocol.eval_examples",
        "protocol.holdout",
        "protocol.max_steps",
    ],
)
def test_a_count_is_at_least_one(build: Build, key: str) -> None:
    refused(build, {key: 0}, f"{key}=0 is not allowed: it is at least 1.")
    build({key: 1})


@pytest.mark.parametrize("key", ["train.learning_rate", "train.head_learning_rate"])
@pytest.mark.parametrize("rate", [0.0, -1e-5, 1.0, 20.0, float("nan")])
def test_a_rate_lies_between_zero_and_one(build: Build, key: str, rate: float) -> None:
    refused(build, {key: rate}, f"{key}={rate} is not allowed: it lies between 0 and 1.")


@pytest.mark.parametrize(
    "key", ["train.warmup_ratio", "train.weight_decay", "train.label_smoothing", "model.head_dropout"]
)
@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_is_at_least_zero_and_below_one(build: Build, key: str, share: float) -> None:
    refused(build, {key: share}, f"{key}={share} is not allowed: it is at least 0 and below 1.")
    build({key: 0.0})


def test_betas_are_two_numbers_below_one(build: Build) -> None:
    refused(build, {"train.betas": [0.9]}, "train.betas=[0.9] is not allowed: AdamW takes two.")
    refused(build, {"train.betas": [0.9, 1.0]}, "train.betas[1]=1.0 is not allowed")


def test_clipping_takes_a_positive_norm_or_null(build: Build) -> None:
    refused(build, {"train.clip_norm": 0}, "train.clip_norm=0.0 is not allowed: it is above 0, or null.")
    assert build({"train.clip_norm": None}).train.clip_norm is None


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_fits_thirty_two_bits(build: Build, seed: int) -> None:
    refused(build, {"seed": seed}, f"seed={seed} is not allowed: it lies between 0 and 4294967295.")
    build({"seed": 2**32 - 1})


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
def test_the_tokens_to_score_are_read_by_two_scorers(
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
