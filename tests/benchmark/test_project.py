"""From measured steps to ratios: worked out by hand; what is printed, and what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from layertune.benchmark.goals import RATIOS, judge
from layertune.benchmark.lengths import (
    across,
    bucketed_batches,
    grouped_batches,
    random_batches,
    split_of,
    task_lengths,
    widths_of,
)
from layertune.benchmark.project import Cost, Curve, Epoch, Round, growth_of, median_cost, projected, ratio
from layertune.benchmark.render import chart, markdown, printed
from layertune.benchmark.selectors import SETS, middle, spread
from layertune.tasks import epoch_batches


def test_a_training_is_its_steps_and_what_comes_once():
    # a step of width w takes w / 10, a batch of the scoring pass w / 100, one of the cache's 1 s at any width
    measured = Round(
        Curve((10, 20), (1.0, 2.0)),
        select=Curve((10, 30), (0.1, 0.3)),
        select_few={"cr": 4.0},
        cache=Curve((10,), (1.0,)),
    )
    epoch = Epoch("trec", steps=np.array([10, 15, 25]), passes=np.array([20, 40]), share=2.0)
    cost = projected(measured, epoch, epochs=3)
    assert (cost.selection, cost.cache, cost.training) == pytest.approx((1.2, 4.0, 30.0))
    assert projected(replace(measured, select=None), replace(epoch, task="cr"), 1).selection == 4.0


def test_a_curve_is_straight_between_and_beyond_what_was_measured():
    curve = Curve((20, 10, 40, 10), (3.0, 1.5, 9.0, 0.5))  # 10 was measured twice: 1.0
    assert curve.at(np.array([10, 15, 20, 30, 40, 50, 5])).tolist() == [1, 2, 3, 6, 9, 12, 0]
    assert curve.total([10, 50], 2.0) == 26.0
    assert Curve((64,), (2.0,)).at(np.array([1, 300])).tolist() == [2.0, 2.0]


def test_a_ratio_is_the_median_over_rounds_and_its_spread_the_range():
    assert ratio([8.0, 9.0, 12.0], [2.0, 3.0, 3.0]) == (4.0, 0.25)
    assert median_cost([Cost(1, 2, 9), Cost(3, 1, 5), Cost(2, 3, 7)]) == Cost(2, 2, 7)


def test_growth_is_what_comes_once_per_example_and_per_epoch():
    # 5 s once, 2 ms per example, 3 ms per example and epoch; then one training a fifth longer
    exact = [(1000, 1, 10.0), (1000, 2, 13.0), (2000, 2, 21.0), (4000, 1, 25.0)]
    assert growth_of(exact) == pytest.approx((5.0, 0.002, 0.003, 0.0), abs=1e-9)
    assert growth_of([*exact[:-1], (4000, 1, 30.0)])[3] > 0.01


def test_a_ratio_whose_rounds_differ_by_more_than_a_fifth_is_not_printed():
    assert printed(4.0, 0.1) == "4.00 ± 0.20"
    assert printed(4.0, 0.21) == "spread 21 %"
    assert printed(4.0, None) == "4.00"


@pytest.mark.parametrize(
    ("task", "examples", "mean"),
    [("sst2_glue", 67349, 13.3), ("sst2", 6920, 25.2), ("mrpc", 3668, 53.2), ("qnli", 104743, 49.1)],
)
def test_lengths_are_those_of_the_tasks(task, examples, mean):
    found = task_lengths(task)
    assert found.examples == examples
    assert found.mean == pytest.approx(mean, abs=0.1)
    assert found.lengths.max() <= 256 and found.lengths.min() >= 3


@pytest.mark.parametrize("order", [random_batches, bucketed_batches, grouped_batches])
def test_every_order_takes_each_example_once(order):
    lengths = task_lengths("trec").lengths[:500]
    batches = order(lengths, 16, 0)
    assert sorted(np.concatenate(batches)) == sorted(lengths)
    assert all(len(batch) == 16 for batch in across([batches], 5))


def test_batches_spread_over_all_tasks_whatever_their_number():
    short = [np.full(4, width) for width in range(1, 101)]  # a hundred narrow batches, ten wide ones
    wide = [np.full(4, width) for width in range(110, 210, 10)]
    found = widths_of(across([short, [*wide, np.full(3, 999)]], 5))  # the last is no whole batch
    assert found.tolist() == [4, 52, 100, 150, 200]
    assert widths_of(across([short], 1)).tolist() == [50]


@pytest.mark.parametrize("order", [random_batches, bucketed_batches, grouped_batches])
@pytest.mark.parametrize("task", ["sst2_glue", "sst2", "mrpc", "qnli"])
def test_five_widths_of_all_tasks_give_the_cost_of_each(task, order):
    def cost(width):  # a step's: its optimiser, its products, its attention
        return 0.5 + 0.1 * width * (1 + width / 4608)

    pools = [order(task_lengths(name).lengths, 16, 0) for name in ("qnli", "mrpc", "sst2", "sst2_glue")]
    known = widths_of(across(pools, 5))
    curve = Curve(tuple(known.tolist()), tuple(cost(known)))
    widths = widths_of(order(task_lengths(task).lengths, 16, 0))
    assert curve.total(widths) == pytest.approx(cost(widths).sum(), rel=0.01)


@pytest.mark.parametrize("task", ["sst2_glue", "sst2", "mrpc", "qnli", "trec"])
def test_batches_as_they_run_on_a_cpu_are_padded_by_a_tenth_at_most(task):
    lengths = task_lengths(task).lengths[:8000]
    store = split_of(lengths, 256).store
    order = epoch_batches(lengths, 16, seed=0, epoch=1, task=task)
    padded = sum(store.batch(rows).input_ids.numel() for rows in order)
    assert padded / lengths.sum() <= 1.1


def test_examples_have_the_lengths_asked_for():
    split = split_of(np.array([3, 9, 5]), 256)
    assert split.store.lengths.tolist() == [3, 9, 5] and set(split.store.labels) <= {0, 1}


def test_selectors_choose_the_sets_of_the_specification():
    assert middle(12, 3, None, None) == (5, 6, 7)
    assert spread(12, 3, None, None) == (4, 8, 12)
    assert list(SETS) == [10, 5, 4, 1]


def line(arm: str, total: float, spread_found: float = 0.05) -> dict[str, object]:
    return {
        "arm": arm,
        "title": f"title of {arm}",
        "lowest": 10 if arm == "h10" else None,
        "seconds": {"selection": 1.0, "cache": 2.0, "training": total - 3.0, "total": total},
        "ratio": 100.0 / total,
        "spread": spread_found,
        "ratio_to": {"c": (600.0 / total, 0.05), "d": (50.0 / total, 0.3)},
    }


@pytest.fixture
def content() -> dict[str, object]:
    machine = {
        "device": "a CPU",
        "cores": 2,
        "threads": 1,
        "clock": "CPU time",
        "load": [1.0, 1, 1],
        "load_after": [2.0, 1, 1],
        "precision": "fp32",
        "batch_size": 16,
        "epochs": 3,
        "optimizer": "AdamW",
        "batching": "buckets",
    }
    task = {
        "task": "sst2",
        "examples": 6920,
        "mean_tokens": 25.2,
        "arms": [line("a", 100.0), line("h10", 16.0), line("f", 50.0, 0.3)],
    }
    step = {"a": {"step": {"widths": [8, 16], "seconds": [1.0, 2.0]}}}
    memory = [
        {"arm": "a", "title": "full", "lowest": None, "bytes": 5e9, "before": 1e9},
        {"arm": "h10", "title": "fast", "lowest": 10, "bytes": 2e9, "before": 1e9},
    ]
    growing = {"arm": "h10", "examples": 1000, "epochs": 2, "selection": 0.5, "seconds": 8.0}
    return {
        "machine": machine,
        "failed": ["real trec: no data"],
        "tasks": [task],
        "rounds": [step, step, step],
        "real": [],
        "memory": memory,
        "growth": [{"examples and epochs": [growing]}],
        "once": [{"what": "start", "seconds": 12.5}, {"what": "tokens", "sentences_per_second": 20000.0}],
    }


def test_the_table_says_ratio_spread_goal_load_and_what_is_missing(content):
    text = markdown(content)
    assert (
        "| h | title of h10 | 10 | 1.0 | 2.0 | 13 | 16 | 6.25 ± 0.16 | 37.50 ± 0.94 | spread 30 % |" in text
    )
    assert "| spread 30 % |" in text
    assert "| h | fast | 1.00 | 0.25 |" in text
    assert "Load before and after: 1.0, 2.0 on 2 cores" in text
    assert "- real trec: no data" in text
    assert "## sst2, projected from 6 measured steps of each arm" in text
    assert "| h | 1,000 | 2 | 8.0 | 4.00 |" in text
    assert "first step, caches warm: 12.5 s" in text and "20,000 sentences per second" in text


def test_goals_are_judged_by_what_was_measured(content):
    verdicts = {goal.what: (goal.found, goal.verdict) for goal in judge(content)}
    assert verdicts == {
        "sst2, h10: times (a)": (6.25, "met"),  # 5.5 is asked for
        "sst2, h10: times (d)": (None, "too noisy"),  # its rounds differ by 30 %
        "sst2, h10: selection as share of training": (1 / 13, "missed"),
        "h10: peak memory as share of (a)": (0.25, "met"),
        "seconds from start to first step": (12.5, "missed"),
        "sentences tokenised per second": (20000.0, "met"),
    }
    assert "| sst2, h10: times (a) | ≥ 5.5 | 6.25 | met |" in markdown(content)


def test_the_chart_is_drawn(content, tmp_path):
    chart(content, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 5000


def test_goals_fall_with_the_depth_of_the_lowest_layer():
    for goals in RATIOS.values():
        values = list(goals.values())
        assert values == sorted(values, reverse=True)


def test_the_arithmetic_needs_no_torch():
    code = (
        "import sys, layertune.benchmark.project, layertune.benchmark.render; print('torch' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
    )


def test_the_length_file_holds_counts_and_no_text():
    from importlib.resources import files

    tree = json.loads(files("layertune.benchmark").joinpath("lengths.json").read_text())
    for entry in tree.values():
        assert set(entry) == {"examples", "counts"} and all(isinstance(n, int) for n in entry["counts"])
