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
from layertune.benchmark.render import chart, markdown, printed, shares_of
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


def test_a_curve_takes_all_measured_batches_into_account():
    # 0.5 s once, 0.1 s per token, 0.001 s per its square
    widths = (20, 10, 40, 30)
    exact = Curve(widths, tuple(0.5 + 0.1 * w + 0.001 * w * w for w in widths))
    assert exact.parts == pytest.approx((0.5, 0.1, 0.001))
    assert exact.at(np.array([5, 50])) == pytest.approx([1.025, 8.0])
    assert exact.total(np.array([5, 50]), 2.0) == pytest.approx(18.05)
    assert Curve((64,), (2.0,)).at(np.array([1, 300])).tolist() == [2.0, 2.0]
    # errors of 1/3 to both sides: 1 / 1.5 + 1 / 0.75 over 1 / 1.5 ** 2 + 1 / 0.75 ** 2
    assert Curve((64, 64), (1.5, 0.75)).at(np.array([64])) == pytest.approx([0.9])


def test_a_curve_falls_nowhere():
    noisy = Curve((10, 20, 30, 40, 50), (1.0, 2.1, 2.9, 4.0, 3.9))  # the last was measured too low
    cost = noisy.at(np.arange(1, 257))
    assert (np.diff(cost) >= 0).all() and cost.min() >= 0


@pytest.mark.parametrize(("widths", "seconds"), [((), ()), ((16, 16), (1.0,))])
def test_a_curve_needs_one_measurement_per_width(widths, seconds):
    with pytest.raises(ValueError, match="measurements"):
        Curve(widths, seconds)


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
    assert found.tolist() == [10, 55, 100, 150, 190]
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


# On a CUDA device widths are multiples of 8: the shorter the examples, the more that costs.
ON_CUDA = {"sst2_glue": 1.31, "sst2": 1.18, "mrpc": 1.09, "qnli": 1.12, "trec": 1.31}


@pytest.mark.parametrize(("multiple", "bounds"), [(1, dict.fromkeys(ON_CUDA, 1.1)), (8, ON_CUDA)])
@pytest.mark.parametrize("task", list(ON_CUDA))
def test_batches_are_padded_by_a_tenth_at_most_where_widths_are_not_rounded(task, multiple, bounds):
    lengths = task_lengths(task).lengths[:8000]
    store = split_of(lengths, 256).store
    order = epoch_batches(lengths, 16, seed=0, epoch=1, task=task)
    padded = sum(store.batch(rows, multiple).input_ids.numel() for rows in order)
    assert padded / lengths.sum() <= bounds[task]


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
        "projected": True,
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
        "minutes": 17.4,
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
    step = {
        "a": {"step": {"widths": [8, 16], "seconds": [1.0, 2.0]}, "examples": None},
        "c": {"step": {"widths": [256], "seconds": [9.0]}, "examples": None},
        "h10": {"step": {"widths": [8, 16], "seconds": [0.1, 0.2]}, "examples": {"sst2": 64, "mrpc": 96}},
    }
    memory = [
        {"arm": "a", "title": "full", "lowest": None, "bytes": 5e9, "before": 1e9, "given_back": True},
        {"arm": "h10", "title": "fast", "lowest": 10, "bytes": 2e9, "before": 1e9, "given_back": True},
    ]
    growing = {"arm": "h10", "examples": 1000, "epochs": 2, "selection": 0.5, "seconds": 8.0}
    return {
        "machine": machine,
        "jobs": {"tasks round 1": 600.0, "memory a": 90.0},
        "failed": ["real trec: no data"],
        "tasks": [task],
        "rounds": [step, step, step],
        "real": [],
        "memory": memory,
        "growth": [{"examples and epochs": [growing]}],
        "profile": [{"arm": "h5", "title": "fast", "width": 54, "shares": {"GELU": 0.75, "other": 0.25}}],
        "once": [
            {"what": "start", "seconds": 12.5},
            {"what": "tokens", "sentences_per_second": 20000.0},
            {"what": "tables", "records": 5000, "seconds": 7.125},
        ],
    }


def test_the_table_says_ratio_spread_goal_load_and_what_is_missing(content):
    text = markdown(content)
    assert (
        "| h | title of h10 | 10 | 1.0 | 2.0 | 13 | 16 | 6.25 ± 0.16 | 37.50 ± 0.94 | spread 30 % |" in text
    )
    assert "| spread 30 % |" in text
    assert "| h | fast | 1.00 | 0.25 |" in text
    assert "Load before and after: 1.0, 2.0 on 2 cores; 17 minutes in all, 12 of a core." in text
    assert "- real trec: no data" in text
    assert "## sst2, projected" in text
    assert "Projected: 6 steps of each arm (3 of c)" in text and "(h) reads 64 to 96 examples" in text
    assert "MALLOC_MMAP_THRESHOLD_" in text
    assert "| h | 1,000 | 2 | 8.0 | 4.00 |" in text
    assert "first step, caches warm: 12.5 s" in text and "20,000 sentences per second" in text
    assert "All tables from 5,000 records: 7.1 s" in text
    assert "16 x 54 tokens" in text and "| h | fast | 75.0 % | 25.0 % |" in text


def test_of_real_data_it_says_which_arms_took_every_step(content):
    real = content["tasks"][0] | {"task": "trec"}
    real["arms"] = [line | {"projected": line["arm"] == "f"} for line in real["arms"]]
    text = markdown(content | {"real": [real]})
    assert "## trec: (a), (h) end to end, every step of every epoch; the others projected" in text


def test_goals_are_judged_by_what_was_measured(content):
    measured = [line | {"projected": line["arm"] == "f"} for line in content["tasks"][0]["arms"]]
    others = [line("c", 600.0), line("d", 50.0)]
    content["real"] = [content["tasks"][0] | {"task": "trec", "arms": [*measured, *others]}]
    content["tasks"][0]["arms"] += others
    verdicts = {goal.what: (goal.found, goal.verdict) for goal in judge(content)}
    assert verdicts == {
        "trec, h10: times (a)": (6.25, "met"),  # 5 is asked for
        "trec, h10: times (c) (projected)": (37.5, "missed"),
        "trec, h10: times (d) (projected)": (None, "too noisy"),  # its rounds differ by 30 %
        "trec, h10: selection as share of training": (1 / 13, "missed"),
        "sst2, h10: times (a) (projected)": (6.25, "met"),  # 5.5 is asked for
        "sst2, h10: times (d) (projected)": (
            None,
            "too noisy",
        ),  # of its selection random weights say nothing
        "h10: peak memory as share of (a)": (0.25, "met"),
        "seconds from start to first step": (12.5, "missed"),
        "seconds of tables from 5,000 records": (7.125, "met"),
        "sentences tokenised per second": (20000.0, "met"),
    }
    assert "| sst2, h10: times (a) (projected) | ≥ 5.5 | 6.25 | met |" in markdown(content)


def test_a_share_of_memory_is_one_of_full_fine_tuning_or_none(content):
    assert shares_of(content["memory"]) == ["1.00", "0.25"]
    assert shares_of(content["memory"][1:]) == [""]  # the job of (a) failed, or is not done yet


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


def test_the_table_in_the_repository_is_that_of_its_numbers(repo):
    path = repo / "results" / "benchmarks" / "cpu.json"
    assert path.with_suffix(".md").read_text() == markdown(json.loads(path.read_text()))
