"""A tiny run, prepared as the pipeline does it, on the built-in corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import Prepared, compose_tiny, prepare

from layertune.config import RunConfig


@pytest.fixture
def tiny_run(tmp_path: Path) -> Callable[..., RunConfig]:
    """Compose a tiny run from overrides."""
    return lambda *overrides: compose_tiny(tmp_path, *overrides)


@pytest.fixture
def prepared(tiny_run: Callable[..., RunConfig]) -> Callable[..., Prepared]:
    """Prepare a tiny run up to its first step."""
    return lambda *overrides: prepare(tiny_run(*overrides))
