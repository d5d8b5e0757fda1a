"""A tiny model for the arms, and lengths of examples."""

from __future__ import annotations

import pytest
from tiny_bench import TINY

from scripts.benchmark.arms import Bench, Setting, bert_base
from scripts.benchmark.lengths import task_lengths


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    return Bench.start(Setting(bert_base(**TINY), "sst2_glue", folder, batch_size=4))


@pytest.fixture(scope="module")
def lengths():
    return task_lengths("sst2_glue").lengths[:1000]
