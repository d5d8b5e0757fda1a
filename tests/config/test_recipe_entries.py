"""Recipes: values a search found, by task, method and grid; a malformed file is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from layertune.config import RunConfig
from layertune.errors import ConfigError

Build = Callable[..., RunConfig]

NOTES = {"score": 0.9, "seeds": [0], "records": ["a", "b"]}


@pytest.mark.parametrize(("grid", "rate", "origin"), [("paper", 5e-5, "recipe"), ("fair", 2e-5, "grid fair")])
def test_an_entry_of_one_grid_says_nothing_under_another(
    build: Build, grid: str, rate: float, origin: str
) -> None:
    entry = {"paper": {"learning_rate": 5e-5, **NOTES}}
    run = build({"grid": grid, "recipe": {"demo": {"low_k": entry}}})
    assert (run.train.learning_rate, run.origin["learning_rate"]) == (rate, origin)


def test_an_entry_without_a_grid_holds_under_every_grid(build: Build) -> None:
    recipe = {"demo": {"low_k": {"epochs": 3, **NOTES}}}
    assert (
        build({"recipe": recipe}).train.epochs == build({"recipe": recipe, "grid": "fair"}).train.epochs == 3
    )


def test_an_entry_for_every_task_holds_where_a_task_has_none(build: Build) -> None:
    every = {"default": {"low_k": {"learning_rate": 1e-4}}}
    assert build({"recipe": every}).train.learning_rate == 1e-4
    own = {"demo": {"low_k": {"learning_rate": 3e-4}}, **every}
    assert build({"recipe": own}).train.learning_rate == 3e-4


def test_a_method_without_a_search_of_its_own_takes_the_recipe_of_the_one_it_names(build: Build) -> None:
    recipe = {"default": {"random_k": {"learning_rate": 1e-4}}}
    assert build({"recipe": recipe}).origin["learning_rate"] == "built-in"
    named = {"method.recipe_of": "random_k"}
    assert build({"recipe": recipe, **named}).train.learning_rate == 1e-4
    searched = {"default": {**recipe["default"], "low_k": {"learning_rate": 5e-4}}}
    assert build({"recipe": searched, **named}).train.learning_rate == 5e-4


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"demo": {"low_k": {"rate": 3}}}, r"recipe\.demo\.low_k\.rate does not exist; .*learning_rate"),
        ({"demo": {"low_k": {"fair": {"epochs": "x"}}}}, r"recipe\.demo\.low_k\.fair\.epochs='x'"),
        ({"demo": {"low_k": 3}}, r"recipe\.demo\.low_k=3 is not allowed"),
        ({"demo": 3}, r"recipe\.demo=3 is not allowed"),
        (3, r"recipe=3 is not allowed"),
    ],
)
def test_a_malformed_recipe_is_one_sentence(build: Build, recipe: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build({"recipe": recipe, "grid": "fair"})
