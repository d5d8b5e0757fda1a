"""Estimates by hand on made records: which records are the nearest, and what follows from them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from made_records import made, write

from layertune.config import RunConfig
from layertune.config.compose import plain_run
from layertune.errors import ConfigError
from layertune.records import Record
from layertune.report.estimate import Estimator
from layertune.report.index import RecordIndex

# Every made record: 1,000 tokens and 64 examples per second, lowest trained layer 2, peak 2 GiB, batch 32.
LOAD = 1000 / 64 + 8  # tokens per example, and what it costs besides them


def run_of(method: str, seed: int = 0, task: str = "sst2", model: str = "bert", *more: str) -> RunConfig:
    return plain_run([f"model={model}", f"task={task}", f"method={method}", f"seed={seed}", *more])


def index_of(folder: Path, *records: Record) -> RecordIndex:
    return RecordIndex.read(write(folder, *records))


def slower(record: Record, **training: Any) -> Record:
    assert record.training is not None
    return dataclasses.replace(record, training=dataclasses.replace(record.training, **training))


def test_a_seed_costs_what_the_other_seeds_did(tmp_path: Path) -> None:
    index = index_of(tmp_path, made(run_of("top_k", 42)), made(run_of("top_k", 100), memory=3 * 2**30))
    found = Estimator(index, ["bert"]).estimate(run_of("top_k"))
    # 5 epochs of 6,920 rows at 64 a second; 872 rows forward after each, at 12 of the 25.75 units of a step
    # (12 + (12 - 2 + 1) - 1/4 + 3)
    assert found.seconds == pytest.approx(5 * 6920 / 64 + 5 * 872 / 64 * 12 / 25.75)
    assert found.memory_bytes == 3 * 2**30
    assert found.basis == "2 records of same model, method, task and protocol"


def test_scores_are_paid_for_by_the_first_run_that_needs_them(tmp_path: Path) -> None:
    estimator = Estimator(index_of(tmp_path, made(run_of("low_k", 42))), ["bert"])
    first, second = (estimator.estimate(run_of("low_k", seed)).seconds for seed in (0, 100))
    assert first is not None and second is not None
    assert first - second == pytest.approx(6920 * 8 / 64)  # all training rows, of which 64 took 8 seconds
    same_scores = estimator.estimate(run_of("high_k")).seconds
    other_scores = Estimator(index_of(tmp_path), ["bert"]).estimate(run_of("high_k")).seconds
    assert same_scores is not None and other_scores is not None and same_scores < other_scores


def test_a_cache_is_paid_for_by_the_first_run_that_needs_it(tmp_path: Path) -> None:
    record = made(run_of("top_k", 42, "sst2", "bert", "train=fast"))
    estimator = Estimator(index_of(tmp_path, record), ["bert"])
    fast = [run_of("top_k", seed, "sst2", "bert", "train=fast") for seed in (0, 100)]
    first, second = (estimator.estimate(run).seconds for run in fast)
    assert first is not None and second is not None
    # the made record's lowest trained layer is 2: one layer once over 6,920 rows, of a cached step's
    # (12 - 2 + 1) + (12 - 2 + 1) - 1/4 + 3 = 24.75 units
    assert first - second == pytest.approx(6920 / 64 / 24.75)


def test_another_task_counts_by_its_tokens(tmp_path: Path) -> None:
    found = Estimator(index_of(tmp_path, made(run_of("top_k"))), ["bert"]).estimate(
        run_of("top_k", task="cr")
    )
    # CR: 1,775 rows of 23.8 tokens, 2,000 test rows; each row costs as 8 tokens more
    assert found.seconds == pytest.approx(5 * (1775 + 2000 * 12 / 25.75) * (23.8 + 8) / LOAD / 64)
    assert found.basis == "1 record of same model, method and protocol"


def test_another_method_counts_by_the_cost_model(tmp_path: Path) -> None:
    index = index_of(tmp_path, made(run_of("full"), lowest=0), made(run_of("full", 42), lowest=0))
    found = Estimator(index, ["bert"]).estimate(run_of("lora"))
    unit = 1 / 64 / 36  # full fine-tuning: three times twelve layers
    assert found.seconds == pytest.approx(5 * (6920 * 24 + 872 * 12) * unit)
    assert found.basis == "2 records of bert, by the cost model"
    top = Estimator(index, ["bert"]).estimate(run_of("top_k")).seconds
    assert top == pytest.approx(5 * (6920 * 17.75 + 872 * 12) * unit)


def test_another_model_counts_by_the_size_of_a_layer(tmp_path: Path) -> None:
    index = index_of(tmp_path, made(run_of("full", model="gte_small"), lowest=0))
    found = Estimator(index, ["bert"], device="gpu a").estimate(run_of("full"))
    unit = 7.09 / 1.77 / 64 / 36
    assert found.seconds == pytest.approx(5 * (6920 * 36 + 872 * 12) * (25.3 + 8) / LOAD * unit)
    assert found.basis == "1 record of other models, by the cost model and the size of a layer"


def test_without_a_record_the_assumption_is_named(tmp_path: Path) -> None:
    estimator = Estimator(index_of(tmp_path), ["bert"])
    found = estimator.estimate(run_of("full"))
    assert found.seconds == pytest.approx(5 * (6920 * 36 + 872 * 12) * (25.3 + 8) * 2 * 7.09e6 / 10e12)
    assert "assumption of 10 TFLOP/s" in found.basis and estimator.device == "a GPU (assumed)"


def test_hours_are_of_one_device(tmp_path: Path) -> None:
    slow = [slower(made(run_of("full", seed), device="B"), tokens_per_second=10.0) for seed in (0, 42)]
    index = index_of(tmp_path, *slow, made(run_of("full", 100), device="A"))
    assert Estimator(index, ["bert"]).device == "B"  # the one with most records
    assert Estimator(index, ["bert"], device="a").device == "A"
    assert Estimator(index, ["bert"], device="none").device == "a GPU (assumed)"
    with pytest.raises(ConfigError, match=r"DEVICE=H200: no record is of such a device; recorded: A, B\."):
        Estimator(index, ["bert"], device="H200")
    assert Estimator(index, ["roberta"]).device == "a GPU (assumed)"  # no record of any model asked for


def test_other_precisions_modes_and_k_and_tiny_subsets_are_not_the_nearest(tmp_path: Path) -> None:
    bf16 = made(run_of("top_k", 1))
    assert bf16.env is not None
    records = [
        dataclasses.replace(bf16, env=dataclasses.replace(bf16.env, precision="bf16")),
        made(run_of("top_k", 2, "sst2", "bert", "train=fast"), run_id="fast"),
        made(run_of("top_k", 3, "sst2", "bert", "method.k=2"), run_id="k2"),
        made(run_of("top_k", 4, "sst2", "bert", "protocol=smoke"), run_id="smoke"),
        made(run_of("top_k", 5), status="failed", run_id="failed"),
    ]
    found = Estimator(index_of(tmp_path, *records), ["bert"]).estimate(run_of("top_k"))
    assert found.basis == "2 records of bert, by the cost model"


def test_memory_of_another_method_is_modelled_and_scaled_by_what_was_measured(tmp_path: Path) -> None:
    plain = Estimator(index_of(tmp_path / "none"), ["bert"])
    full, lora = (plain.estimate(run_of(method)).memory_bytes for method in ("full", "lora"))
    assert full is not None and lora is not None
    index = index_of(tmp_path / "one", made(run_of("full"), memory=int(1.5 * full), lowest=0))
    found = Estimator(index, ["bert"]).estimate(run_of("lora")).memory_bytes
    assert found == pytest.approx(1.5 * lora)


def test_a_pass_for_scores_alone_trains_nothing(tmp_path: Path) -> None:
    estimator = Estimator(index_of(tmp_path, made(run_of("low_k", 42))), ["bert"])
    found = estimator.estimate(run_of("low_k", 0, "sst2", "bert", "stage=score"))
    assert found.seconds == pytest.approx(6920 * 8 / 64)


def test_scoring_takes_one_pass_forward_where_no_record_says_what_it_took(tmp_path: Path) -> None:
    record = made(run_of("top_k", 42), selected=None)
    found = Estimator(index_of(tmp_path, record), ["bert"]).estimate(
        run_of("low_k", 0, "sst2", "bert", "stage=score")
    )
    assert found.seconds == pytest.approx(6920 / 64 * 12 / 25.75)


def test_adaptive_scoring_reads_as_many_rows_as_it_did(tmp_path: Path) -> None:
    fast = ("sst2", "bert", "train=fast", "stage=score")
    index = index_of(tmp_path, made(run_of("low_k", 42, "sst2", "bert", "train=fast")))
    assert Estimator(index, ["bert"]).estimate(run_of("low_k", 0, *fast)).seconds == pytest.approx(8)
    other = Estimator(index, ["bert"]).estimate(run_of("high_k", 0, *fast)).seconds
    assert other == pytest.approx(256 * 8 / 64)  # no record of the method: a guess


def test_evaluation_takes_what_records_say_it_took(tmp_path: Path) -> None:
    record = slower(made(run_of("top_k", 42)), evaluation_seconds=60.0)
    found = Estimator(index_of(tmp_path, record), ["bert"]).estimate(run_of("top_k"))
    assert found.seconds == pytest.approx(5 * 6920 / 64 + 60)
    # another method has no record of its own: 60 s for five times 872 rows of any run of the model
    other = Estimator(index_of(tmp_path, record), ["bert"]).estimate(run_of("full"))
    assert other.seconds == pytest.approx(5 * 6920 / 64 * 36 / 25.75 + 60)
