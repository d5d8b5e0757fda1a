"""Rates by grid: the paper's list for every method, a fair list per method, and who comes before whom."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from layertune.config import MethodSpec, RunConfig
from layertune.config.compose import compose_run
from layertune.config.groups import group_file, group_names
from layertune.config.rates import middle, next_rate, rates_to_search
from layertune.errors import ConfigError

Build = Callable[..., RunConfig]

LORA = {"method.grids": {"fair": [1e-4, 2e-4, 5e-4]}}
OWN = {"task.train": {"learning_rate": 3e-4}}  # a task that proposes its own rate, as demo does


def rates(run: RunConfig) -> tuple[float | None, float | None]:
    return run.train.learning_rate, run.train.head_learning_rate


def test_a_method_that_names_no_rates_has_the_paper_s(build: Build) -> None:
    # §4.4 prints {1e-5, 2e-5, 5e-5}; without a search the middle; under fair the head has 5e-5.
    plain, fair = build(), build({"grid": "fair"})
    assert (
        rates_to_search(plain.method.grids, "paper")
        == rates_to_search(plain.method.grids, "fair")
        == (1e-5, 2e-5, 5e-5)
    )
    assert rates(plain) == (2e-5, None)
    assert plain.origin["learning_rate"] == "built-in"
    assert rates(fair) == (2e-5, 5e-5)
    assert fair.origin["learning_rate"] == fair.origin["head_learning_rate"] == "grid fair"


def test_a_method_s_own_list_gives_its_middle_under_its_grid_alone(build: Build) -> None:
    paper, fair = build(LORA), build({**LORA, "grid": "fair"})
    assert rates_to_search(fair.method.grids, "fair") == (1e-4, 2e-4, 5e-4)
    assert rates_to_search(fair.method.grids, "paper") == (1e-5, 2e-5, 5e-5)
    assert rates(paper) == (2e-5, None)
    assert rates(fair) == (2e-4, 5e-5)
    assert (fair.origin["learning_rate"], fair.origin["head_learning_rate"]) == ("method low_k", "grid fair")
    named = build({**LORA, "grid": "fair", "method.grid_rates": {"fair": 5e-4}})
    assert rates(named) == (5e-4, 5e-5)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [((3.0,), 3.0), ((1.0, 2.0), 1.0), ((5.0, 1.0, 2.0), 2.0), ((1e-5, 2e-5, 5e-5, 1e-4), 2e-5)],
)
def test_the_middle_of_an_even_list_is_the_lower_one(listed: tuple[float, ...], expected: float) -> None:
    assert middle(listed) == expected


def test_a_task_s_own_rate_comes_before_a_grid_s_default_and_behind_a_method_s(build: Build) -> None:
    assert rates(build(OWN)) == (3e-4, None)
    assert build(OWN).origin["learning_rate"] == "task demo"
    assert rates(build({**OWN, "grid": "fair"})) == (3e-4, 5e-5)
    assert rates(build({**OWN, **LORA})) == (3e-4, None)  # lora names no rate under grid=paper
    fair = build({**OWN, **LORA, "grid": "fair"})
    assert (rates(fair), fair.origin["learning_rate"]) == ((2e-4, 5e-5), "method low_k")


@pytest.mark.parametrize(("grid", "rate"), [("fair", 8e-5), ("paper", 2e-5)])
def test_a_rate_for_one_task_holds_under_fair_alone(build: Build, grid: str, rate: float) -> None:
    source = {"method.grids": {"fair": [4e-5, 5e-5, 8e-5]}, "method.task_rates": {"demo": 8e-5, "rte": 1e-4}}
    assert build({**source, "grid": grid}).train.learning_rate == rate
    other = build({**source, "grid": grid, "method.task_rates": {"rte": 1e-4}})
    assert other.train.learning_rate == {"fair": 5e-5, "paper": 2e-5}[grid]


def test_a_rate_for_a_task_serves_tasks_that_read_its_rows(build: Build) -> None:
    run = build({"grid": "fair", "task.data": "sst2", "method.task_rates": {"sst2": 8e-5}})
    assert run.train.learning_rate == 8e-5
    both = build({"grid": "fair", "task.data": "sst2", "method.task_rates": {"sst2": 8e-5, "demo": 7e-5}})
    assert both.train.learning_rate == 7e-5


def test_a_language_model_s_own_head_follows_the_backbone_under_every_grid(build: Build) -> None:
    generation = {
        "task.kind": "generation",
        "task.metric": "bleu",
        "task.metrics": [],
        "model.family": "decoder",
        "task.max_length": 32,
    }
    assert rates(build({**generation, "grid": "fair"})) == (2e-5, None)


def test_the_command_line_and_a_recipe_come_before_every_grid(build: Build) -> None:
    typed = build({**LORA, "grid": "fair", "train.learning_rate": 7e-4, "train.head_learning_rate": 6e-4})
    assert rates(typed) == (7e-4, 6e-4)
    found = build({**LORA, "grid": "fair", "recipe": {"demo": {"low_k": {"learning_rate": 1e-4}}}})
    assert (rates(found), found.origin["learning_rate"]) == ((1e-4, 5e-5), "recipe")


def test_under_tuned_every_method_has_four_rates_and_one_for_backbone_and_head(build: Build) -> None:
    run = build({"grid": "tuned"})
    assert rates_to_search(run.method.grids, "tuned") == (5e-5, 1e-4, 2e-4, 5e-4)
    assert (rates(run), run.origin["learning_rate"]) == ((1e-4, None), "grid tuned")
    for name in group_names("method"):
        listed = (group_file("method", name).get("grids") or {}).get("tuned", (5e-5, 1e-4, 2e-4, 5e-4))
        steps = [high / low for low, high in itertools.pairwise(listed)]
        assert len(listed) == 4 and all(1.9 < step < 3.1 for step in steps), name


@pytest.mark.parametrize(
    ("rate", "up", "expected"),
    [(1e-4, True, 2e-4), (2e-4, True, 5e-4), (5e-4, True, 1e-3), (5e-5, False, 2e-5), (1e-3, False, 5e-4),
     (1.25e-4, True, 2e-4), (1.25e-4, False, 1e-4)],
)  # fmt: skip
def test_the_next_rate_is_that_of_the_series_1_2_5(rate: float, up: bool, expected: float) -> None:
    assert next_rate(rate, up) == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method.grids": {"fare": [1e-4]}}, r"method\.grids='fare' .*paper, fair, tuned"),
        ({"method.grid_rates": {"fare": 1e-4}}, r"method\.grid_rates='fare' .*paper, fair, tuned"),
        ({"method.head_rates": {"fare": 1e-4}}, r"method\.head_rates='fare' .*paper, fair, tuned"),
        ({"method.grids": {"fair": []}}, r"method\.grids\.fair=\[\] .*at least one"),
        ({"method.grids": {"fair": [2.0, 3.0]}}, r"method\.grids\.fair\[0\]=2\.0 .*below 1"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(build: Build, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(changes)


# Spec of the baselines, §6: the list of each method's own source, and the middle of it.
FAIR = {
    "lora": ((1e-4, 2e-4, 5e-4), 2e-4),
    "adapters": ((1e-4, 2e-4, 5e-4), 2e-4),
    "prefix": ((1e-3, 5e-3, 1e-2), 5e-3),
    "ia3": ((3e-3, 5e-3, 1e-2), 5e-3),
    "lift": ((1e-5, 2e-5, 5e-5, 1e-4), 2e-5),
    **dict.fromkeys(("full", "low_k", "recap", "lisa", "elsa", "head_only"), ((1e-5, 2e-5, 5e-5), 2e-5)),
}


@pytest.mark.parametrize("name", sorted(set(FAIR) & set(group_names("method"))))
def test_every_method_has_the_rates_of_its_source(name: str, build: Build) -> None:
    declared = group_file("method", name)
    listed, rate = FAIR[name]
    fair, paper = build({"method": declared, "grid": "fair"}), build({"method": declared})
    assert isinstance(fair.method, MethodSpec)
    assert tuple(sorted(rates_to_search(fair.method.grids, "fair"))) == listed
    assert rates(fair) == (rate, 5e-5)
    assert rates(paper) == (2e-5, None)


# Spec of the baselines, §4: task -> freezing rate, learning rate. First the source's eight task scripts;
# SNLI is treated as MNLI, the tasks that the source lacks have 0.90 and 8e-5, E2E the lower of {5e-5, 1e-4}.
SLIMFIT = {
    "cola": (0.90, 8e-5),
    "sst2_glue": (0.95, 8e-5),
    "mrpc": (0.90, 1.25e-4),
    "stsb": (0.85, 8e-5),
    "qnli": (0.95, 5e-5),
    "qqp": (0.80, 5e-5),
    "mnli": (0.80, 4e-5),
    "rte": (0.90, 1.2e-4),
    "snli": (0.80, 4e-5),
    "sst2": (0.95, 8e-5),
    **dict.fromkeys(("sst5", "mr", "cr", "mpqa", "subj", "trec"), (0.90, 8e-5)),
    "e2e": (0.90, 5e-5),
}


@pytest.mark.parametrize("task", sorted(SLIMFIT))
def test_slimfit_has_the_rates_of_its_source_for_every_task(task: str) -> None:
    model = "gpt2" if task == "e2e" else "bert"
    run = compose_run(f"model={model}", f"task={task}", "method=slimfit", "grid=fair")
    freezing, rate = SLIMFIT[task]
    assert (run.method.options["freezing_rate"], run.train.learning_rate) == (freezing, rate)


def test_a_search_for_slimfit_tries_every_rate_of_its_source(build: Build) -> None:
    run = build({"method": group_file("method", "slimfit"), "grid": "fair"})
    listed = rates_to_search(run.method.grids, "fair")
    assert set(listed) == {rate for _, rate in SLIMFIT.values()} | {1e-4}  # E2E: {5e-5, 1e-4}
    assert rates(run) == (8e-5, 5e-5)
