"""Recipes: values a search found, by task, method and grid; a malformed file is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from layertune.config import ConfigError, RunConfig

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
