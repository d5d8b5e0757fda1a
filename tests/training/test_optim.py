"""Schedules, worked out by hand."""

from __future__ import annotations

import pytest

from layertune.training.optim import build_optimizer, rate_factor


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("linear", 0.0, [1.0, 0.75, 0.5, 0.25, 0.0]),
        ("linear", 0.5, [0.0, 0.5, 1.0, 0.5, 0.0]),
        ("cosine", 0.0, [1.0, 0.8535533905932737, 0.5, 0.14644660940672627, 0.0]),
        ("cosine", 0.25, [0.0, 1.0, 0.75, 0.25, 0.0]),
        ("constant", 0.25, [0.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_factors_over_four_steps(schedule, warmup, expected):
    factor = rate_factor(schedule, warmup, 4)
    assert [factor(step) for step in range(5)] == pytest.approx(expected)


def test_the_head_may_have_its_own_rate(prepared):
    case = prepared("train.learning_rate=1e-4", "train.head_learning_rate=1e-3")
    groups = build_optimizer(case.model, case.run.train).param_groups
    assert {group["name"]: group["lr"] for group in groups} == {"backbone": 1e-4, "head": 1e-3}
    assert {id(p) for p in groups[1]["params"]} == {id(p) for p in case.model.head.parameters()}


def test_a_warm_up_that_ends_within_a_step_takes_the_whole_step():
    factor = rate_factor("linear", 0.3, 5)  # 1.5 steps are two; the three others decay
    assert [factor(step) for step in range(6)] == pytest.approx([0, 1 / 2, 1, 2 / 3, 1 / 3, 0])
