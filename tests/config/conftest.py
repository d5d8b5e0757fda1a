"""A small run as a plain mapping, and one composition shared by all tests of this folder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from layertune.config import RunConfig
from layertune.config.compose import compose_tree
from layertune.config.run import run_from_hydra

Tree = dict[str, Any]

TREE: Tree = {
    "model": {
        "name": "tiny_bert",
        "source": "random",
        "num_layers": 4,
        "max_positions": 512,
        "random_config": {"hidden_size": 32},
    },
    "task": {"name": "demo", "source": "synthetic", "labels": ["negative", "positive"]},
    "method": {"name": "low_k", "kind": "selected", "scorer": "cosine", "selector": "lowest", "k": 3},
    "protocol": {"name": "paper"},
    "train": {},
}


@pytest.fixture(autouse=True)
def _no_local_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAYERTUNE_DATA", raising=False)


@pytest.fixture
def tree() -> Tree:
    """Return a run as a plain mapping, free to be changed."""
    return copy.deepcopy(TREE)


@pytest.fixture
def build(tree: Tree) -> Callable[..., RunConfig]:
    """Return a builder of runs; arguments are dotted keys and their values: `build({"train.epochs": 3})`."""

    def built(changes: dict[str, Any] | None = None) -> RunConfig:
        changed = copy.deepcopy(tree)
        for key, value in (changes or {}).items():
            node: Any = changed
            *parents, leaf = key.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        return run_from_hydra(changed)

    return built


@pytest.fixture(scope="session")
def composed() -> Tree:
    """Return what Hydra composes for `model=tiny_bert task=cr method=low_k`; copy it before changing it."""
    return compose_tree(["model=tiny_bert", "task=cr", "method=low_k"])
