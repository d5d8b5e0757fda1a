"""From measured steps to ratios: worked out by hand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from layertune.tasks import epoch_batches
from scripts.benchmark.lengths import (
    KNOWN,
    across,
    bucketed_batches,
    grouped_batches,
    random_batches,
    split_of,
    task_lengths,
    widths_of,
)
from scripts.benchmark.project import Cost, Curve, Epoch, Round, growth_of, median_cost, projected, ratio


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


def test_curves_are_joined():
    assert Curve((8,), (1.0,)) + Curve((16, 24), (2.0, 3.0)) == Curve((8, 16, 24), (1.0, 2.0, 3.0))


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
    assert ratio([12.0], [2.0, 3.0, 4.0]) == (4.0, 0.75)  # of one that was measured once
    assert ratio([12.0], [3.0]) == (4.0, None)
    assert median_cost([Cost(1, 2, 9), Cost(3, 1, 5), Cost(2, 3, 7)]) == Cost(2, 2, 7)


def test_growth_is_what_comes_once_per_example_and_per_epoch():
    # 5 s once, 2 ms per example, 3 ms per example and epoch; then one training a fifth longer
    exact = [(1000, 1, 10.0), (1000, 2, 13.0), (2000, 2, 21.0), (4000, 1, 25.0)]
    assert growth_of(exact) == pytest.approx((5.0, 0.002, 0.003, 0.0), abs=1e-9)
    assert growth_of([*exact[:-1], (4000, 1, 30.0)])[3] > 0.01
    assert min(growth_of([(500, 2, 3.0), (1000, 2, 6.5), (1000, 1, 3.0), (1000, 4, 13.5)])) >= 0


@pytest.mark.parametrize(
    ("task", "examples", "mean"),
    [("sst2_glue", 67349, 13.3), ("sst2", 6920, 25.2), ("mrpc", 3668, 53.2), ("qnli", 104743, 49.1)],
)
def test_lengths_are_those_of_the_tasks(task, examples, mean):
    found = task_lengths(task)
    assert found.examples == examples
    assert found.facts["mean_tokens"] == pytest.approx(mean, abs=0.1)
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


def test_the_page_needs_no_torch(repo):
    code = "import sys, scripts.benchmark.page; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repo)
    assert done.stdout.strip() == "False"


def test_the_length_file_holds_counts_and_no_text():
    for entry in KNOWN.values():
        assert set(entry) == {"examples", "counts"} and all(isinstance(n, int) for n in entry["counts"])
