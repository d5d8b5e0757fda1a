"""Shared fixtures: no network, and the optional folder with real data and weights."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: two threads on two busy cores are ten times slower
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import sys
from pathlib import Path

import absl.logging
import pytest
import torch

torch.set_num_threads(1)
# rouge-score brings absl, whose log handler closes its stream when Hydra sets up logging: never pytest's own.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

REPO = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("LAYERTUNE_TEST_SHARED", REPO.parent / "shared"))


def _folder(*parts: str) -> Path:
    folder = SHARED.joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"real input missing: no folder {folder} (LAYERTUNE_TEST_SHARED names its parent)")
    return folder


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets, `<task>/<split>.parquet`; the test skips where it is missing."""
    return _folder("data")


@pytest.fixture(scope="session")
def gte_small() -> Path:
    """Folder of the real 12-layer BERT; the test skips where it is missing."""
    return _folder("models", "gte_small")
