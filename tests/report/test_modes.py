"""Both training modes, and both precisions, side by side, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from layertune.config.groups import group_file
from layertune.records import read_record
from layertune.records.record import CacheRecord, VersionsRecord
from layertune.report.summary import compare_means, compare_sides

RUNS = Path(__file__).resolve().parents[2] / "results/runs"


@pytest.fixture
def record():
    """Return a function that gives one committed record a mode, a seed and a score."""
    original = read_record(min(RUNS.glob("gte_small-trec-low_k-k3-s0-*.json")))

    def make(mode, seed, score, task="trec", cpu=100.0, cache=0.0, stale=0, precision="fp32", **training):
        env = replace(original.env, precision=precision)
        made = CacheRecord(used=cache > 0, cpu_seconds=cache)
        return replace(
            original,
            spec=replace(original.spec, task=task, train=mode, seed=seed, grid="paper"),
            env=env,
            versions=VersionsRecord(1, 1, 1, 1, group_file("train", mode)["version"] - stale),
            metrics=replace(original.metrics, last={task: {"accuracy": score}}),
            training=replace(original.training, cpu_seconds=cpu, cache=made, **training),
        )

    return make


def test_modes_are_compared_over_the_seeds_that_both_have(record):
    records = [
        record("published", 0, 0.90),
        record("published", 42, 0.92),
        record("published", 100, 0.10),  # never trained fast: it does not count
        record("fast", 0, 0.91, cpu=20, cache=5),
        record("fast", 42, 0.95, cpu=30, cache=5),
        record("published", 0, 0.80, "cr"),
        record("fast", 0, 0.80, "cr", cpu=10),
    ]
    lines = compare_sides(records, "train").splitlines()
    # means of 90, 92 and 91, 95; deviations sqrt(2) and sqrt(8); 25 + 5 CPU seconds
    found = [" ".join(line.split()) for line in lines]
    assert found[3] == "trec low_k 10 11 12 91.0 ± 1.4 93.0 ± 2.8 +2.00 2 100 30 5"
    assert found[2] == "cr low_k 10 11 12 80.0 80.0 +0.00 1 100 10 0"
    assert "in points: +1.00 [" in lines[-1] and "the 2 rows" in lines[-1]  # the mean of +2 and 0
    assert "3 pairs of seeds" in lines[-1]


def test_rows_that_learned_nothing_are_shown_and_not_compared(record):
    at_majority = replace(record("fast", 0, 0.5).checks, beats_majority=False)
    nothing = [replace(record(mode, 0, 0.5, "cola"), checks=at_majority) for mode in ("published", "fast")]
    pair = [record("published", 0, 0.5), record("fast", 0, 0.75)]
    lines = compare_sides([*nothing, *pair], "train").splitlines()
    assert lines[2].startswith("cola")
    assert "in points: +25.00, over the 1 rows" in lines[-1]
    assert "No row learned" in compare_sides(nothing, "train")


def test_what_was_trained_at_another_rate_is_a_row_of_its_own(record):
    other = {"learning_rate": 1e-4, "origin": {"learning_rate": "command line"}}
    records = [
        record("published", 0, 0.5),
        record("fast", 0, 0.75),
        record("published", 0, 0.25, **other),
        record("fast", 0, 0.125, **other),
        record("fast", 42, 0.9),
        record("published", 42, 0.9, **other),  # no pair
    ]
    found = [" ".join(line.split()) for line in compare_sides(records, "train").splitlines()]
    assert found[2:4] == [
        "trec low_k 10 11 12 50.0 75.0 +25.00 1 100 100 0",
        "trec low_k 0.0001 10 11 12 25.0 12.5 -12.50 1 100 100 0",
    ]
    assert "2 pairs" in found[-1]


def test_stale_records_are_left_out_and_counted(record):
    pair = [record("published", 0, 0.5), record("fast", 0, 0.75)]
    stale = [record("published", 42, 0.1, stale=1), record("fast", 42, 0.9)]
    lines = compare_sides([*pair, *stale], "train").splitlines()
    assert " ".join(lines[2].split()) == "trec low_k 10 11 12 50.0 75.0 +25.00 1 100 100 0"
    assert "1 stale" in lines[-1]


def test_where_nothing_was_trained_in_both_modes_it_is_said(record):
    with pytest.raises(ValueError, match="under both train=published and train=fast"):
        compare_sides([record("published", 0, 0.9), record("fast", 42, 0.9)], "train")


def test_precisions_are_compared_within_one_mode(record):
    records = [
        record("fast", 0, 0.90, cpu=100),
        record("fast", 0, 0.92, cpu=50, precision="bf16"),
        record("published", 0, 0.10, precision="bf16"),  # of another mode: no pair
    ]
    lines = compare_sides(records, "precision").splitlines()
    assert " ".join(lines[2].split()) == "trec low_k 10 11 12 90.0 92.0 +2.00 1 100 50 0"
    assert "bf16 minus fp32" in lines[-1]
    lines = compare_sides(records, "train").splitlines()  # within bf16, the one that both have
    assert " ".join(lines[2].split()) == "trec low_k 10 11 12 10.0 92.0 +82.00 1 100 50 0"


def test_means_are_not_taken_over_precisions(record):
    records = [record("fast", 0, 0.90), record("fast", 42, 0.70, precision="bf16")]
    found = [" ".join(line.split()[:3]) for line in compare_means(records).splitlines()[2:]]
    assert found == ["low_k (fast) paper", "low_k (fast, bf16)"]
