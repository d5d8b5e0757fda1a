"""Records side by side: one row per record, or one per method over its seeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from layertune.config.groups import group_file
from layertune.records import read_record
from layertune.records.record import CacheRecord, VersionsRecord
from layertune.report.paper import the_paper
from layertune.report.summary import against_full, compare, compare_means, three_numbers

RUNS = Path(__file__).resolve().parents[2] / "results/runs"


@pytest.fixture
def record():
    """Return a function that gives one committed record another method, seed, grid and score."""
    original = read_record(min(RUNS.glob("gte_small-trec-full-s0-*.json")))

    def make(method="full", seed=0, grid="paper", score=0.5, seconds=100.0, rate=None, stale=0, **trainable):
        recipe = {"learning_rate": rate, "origin": {"learning_rate": "command line"}} if rate else {}
        return replace(
            original,
            spec=replace(original.spec, method=method, seed=seed, grid=grid, train="published"),
            env=replace(original.env, precision="fp32"),
            versions=VersionsRecord(1, 1, 1, 1, group_file("train", "published")["version"] - stale),
            metrics=replace(original.metrics, last={"trec": {"accuracy": score}}),
            training=replace(
                original.training,
                seconds=seconds,
                cpu_seconds=2 * seconds,
                peak_memory_bytes=2**20 * seed,
                **recipe,
            ),
            model=replace(original.model, trainable={"backbone": 1000, "head": 200, "added": 30} | trainable),
        )

    return make


def rows_of(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()[2:]]


def test_seeds_become_one_row_of_mean_and_sample_deviation(record):
    rows = rows_of(
        compare_means([record(seed=1, score=0.9, seconds=10), record(seed=3, score=0.7, seconds=20)])
    )
    # split: of sqrt(0.9 * 0.1 / 500) and sqrt(0.7 * 0.3 / 500), 1.34 and 2.05, the mean
    # mean of 90 and 70; sample deviation sqrt(10² + 10²) = 14.1; of 10 and 20 s, 20 and 40 CPU s, 1 and 3 MiB
    assert rows == [
        [
            "full",
            "paper",
            "all",
            "1,030",
            "—",
            "15.0",
            "30.0",
            "2",
            "accuracy",
            "80.0",
            "±",
            "14.1",
            "±",
            "1.7",
            "2",
        ]
    ]


def test_grids_and_methods_are_rows_of_their_own_best_first(record):
    table = compare_means(
        [record(score=0.6), record("lora", grid="fair", score=0.7), record("lora", score=0.4)]
    )
    assert [row[:2] for row in rows_of(table)] == [["lora", "fair"], ["full", "paper"], ["lora", "paper"]]


def test_another_rate_is_a_row_of_its_own_and_named(record):
    rows = rows_of(compare_means([record(score=0.9), record(seed=1, score=0.5, rate=1e-4)]))
    assert [row[:3] for row in rows] == [["full", "paper", "all"], ["full", "paper", "0.0001"]]
    assert [row[-1] for row in rows] == ["1", "1"]


def test_what_trains_at_once_is_counted_without_the_head(record):
    table = compare_means([record("lift", at_once=700, touched=9000)])
    assert rows_of(table)[0][3] == "500"


def test_an_unfinished_record_is_in_no_mean(record):
    failed = replace(record(seed=42, score=0.0), status="failed")
    assert compare_means([record(score=0.5), failed]) == compare_means([record(score=0.5)])
    assert len(rows_of(compare([record(score=0.5), failed]))) == 2


def test_a_stale_record_is_in_no_mean_with_others_and_says_so(record):
    records = [record(score=0.9), record(seed=1, score=0.8), record(seed=2, score=0.1, stale=1)]
    rows = rows_of(compare_means(records))
    assert [row[:3] for row in rows] == [["full", "paper", "all"], ["full", "(stale)", "paper"]]
    assert [row[-1] for row in rows] == ["2", "1"]
    assert [row[:2] for row in rows_of(compare(records))][-1] == ["full", "(stale)"]


def test_the_saving_counts_what_choosing_and_caching_took(record):
    from layertune.records.record import CacheRecord, SelectionRecord

    chosen = SelectionRecord("cosine", "lowest", None, None, None, (1, 2), 64, 5.0, False)
    full, part = record(seed=4, seconds=100.0), record("low_k", seed=2, seconds=10.0)
    cached = replace(part.training, cache=CacheRecord(used=True, seconds=25.0))
    part = replace(part, selection=chosen, training=cached)
    words = against_full([full, part])
    assert "low_k: 2.5 times" in words and "50 % of its memory" in words  # 100 / (5 + 25 + 10), 2 of 4 MiB
    assert against_full([part]) == ""


def test_what_a_reader_asks_first_stands_beside_the_papers_numbers(record):
    def runs(seed, task, full, *scores, learned=True):
        names = ("full", "high_k", "low_k", "block_high", "block_low")
        for name, score in zip(names, (full, *scores), strict=True):
            sizes = (1000, 0) if name == "full" else (190, 10)
            trained = dict(zip(("backbone", "head", "added"), (*sizes, 0), strict=True))
            one = record(name, seed, score=score, seconds=100 if name == "full" else 25, **trained)
            yield replace(
                one,
                spec=replace(one.spec, task=task),
                metrics=replace(one.metrics, last={task: {"accuracy": score}}),
                selection=None,
                training=replace(one.training, cache=CacheRecord()),
                checks=replace(one.checks, beats_majority=learned),
            )

    records = [
        *runs(0, "trec", 0.90, 0.80, 0.91, 0.70, 0.60),
        *runs(42, "trec", 0.90, 0.80, 0.87, 0.70, 0.60),
        *runs(0, "cola", 0.50, 0.99, 0.50, 0.50, 0.50, learned=False),  # of cost alone
        record("full", 100, score=0.99, seconds=9999),  # the strategies were not run: it does not count
    ]
    found = three_numbers(records, the_paper())
    # a fifth of the parameters (190 + 10 of 1000), a quarter of the seconds; low_k: 91 and 87 beside 90
    assert found.startswith("2 tasks, 15 runs")
    assert "20.0 % of the parameters" in found and "4.00 times as fast" in found
    assert "low_k" in found and "-1.0 points" in found
    # the paper: 28.3 of 116.6 million; 1.54 times; its best average 85.0 beside 85.7
    assert "paper 24.3 %" in found and "paper 1.54" in found and "paper -0.7" in found
    assert three_numbers(records[1:5], the_paper()) == ""
