"""Planned hours beside recorded ones: each run of the study, foretold from the records of the others."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from layertune.records import Record
from layertune.report.estimate import Estimator
from layertune.report.index import RecordIndex
from layertune.report.plan import read_index


def seconds_of(record: Record) -> float:
    """What the run took: choosing layers, the cache, training and evaluation."""
    assert record.training is not None and record.training.evaluation_seconds is not None
    return sum(record.seconds.values()) + record.training.evaluation_seconds


def is_of_the_study(record: Record) -> bool:
    """Table 1's runs of seed 0 that recorded how long evaluation took."""
    spec, training = record.spec, record.training
    words = (spec.model, spec.protocol, spec.train, spec.grid, spec.seed)
    return (
        words == ("gte_small", "study", "fast", "tuned", 0)
        and training is not None
        and training.evaluation_seconds is not None
    )


@pytest.fixture(scope="module")
def foretold(repo: Path) -> dict[str, list[tuple[float, float]]]:
    """By method: planned and recorded seconds of each run, planned from all records but its own."""
    records = read_index([f"results_dir={repo / 'results'}"]).records
    found = defaultdict(list)
    for record in filter(is_of_the_study, records):
        others = [other for other in records if other.run_id != record.run_id]
        assert record.run is not None
        planned = Estimator(RecordIndex(others), ["gte_small"]).estimate(record.run).seconds
        assert planned is not None
        found[record.spec.method].append((planned, seconds_of(record)))
    return found


def ratio(pairs: list[tuple[float, float]]) -> float:
    planned, recorded = map(sum, zip(*pairs, strict=True))
    return planned / recorded


def test_planned_hours_of_the_study_are_the_recorded_ones_within_15_percent(
    foretold: dict[str, list[tuple[float, float]]],
) -> None:
    runs = [pair for pairs in foretold.values() for pair in pairs]
    assert len(runs) >= 100 and 0.85 < ratio(runs) < 1.15


def test_so_are_those_of_four_of_five_methods(foretold: dict[str, list[tuple[float, float]]]) -> None:
    near = [0.85 < ratio(pairs) < 1.15 for pairs in foretold.values()]
    assert len(near) >= 12 and sum(near) >= 0.8 * len(near)
