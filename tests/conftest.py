"""Shared fixtures: no network, and the optional folder with real data and weights."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: two threads on two busy cores are ten times slower
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from loopback_hub import Hub, serving

if TYPE_CHECKING:
    from programs import Ended
    from tiny_runs import Prepared

    from layertune.config import RunConfig

torch.set_num_threads(1)
# rouge-score brings absl, whose log handler closes its stream when Hydra sets up logging: never pytest's own.
with suppress(ImportError):  # a machine that only tests its GPU may lack it
    import absl.logging

    absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__

REPO = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("LAYERTUNE_TEST_SHARED", REPO.parent / "shared"))


def _folder(*parts: str) -> Path:
    folder = SHARED.joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"real input missing: no folder {folder} (LAYERTUNE_TEST_SHARED names its parent)")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first: workers take files in this order, so none ends alone on a long one."""
    slow: Counter[Path] = Counter()
    for item in items:
        if (mark := item.get_closest_marker("slow")) and not item.get_closest_marker("whole"):
            slow[item.path] += mark.kwargs.get("tests", 1)
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture
def loopback_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty hub on the loopback, which the clients of this process ask, with an empty cache."""
    import datasets
    import huggingface_hub
    from huggingface_hub import constants

    with serving(Hub()) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        huggingface_hub.close_session()
        yield hub
    huggingface_hub.close_session()


@pytest.fixture
def tiny_run(tmp_path: Path) -> Callable[..., RunConfig]:
    """Compose a tiny run on the built-in corpus from overrides."""
    from tiny_runs import compose_tiny

    return lambda *overrides: compose_tiny(tmp_path, *overrides)


@pytest.fixture
def prepared(tiny_run: Callable[..., RunConfig]) -> Callable[..., Prepared]:
    """Prepare a tiny run as the pipeline does it, up to its first step."""
    from tiny_runs import prepare

    return lambda *overrides: prepare(tiny_run(*overrides))


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run a file of the checkout as `python <file> <words>` does, without a second interpreter."""
    from programs import Ended, own_logging, program

    def call(name: str, *words: str) -> Ended:
        capsys.readouterr()
        with own_logging():
            code = program(REPO / name, words, monkeypatch)
        return Ended(code, *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data sets, `<task>/<split>.parquet`; the test skips where it is missing."""
    return _folder("data")


@pytest.fixture(scope="session")
def gte_small() -> Path:
    """Folder of the real 12-layer BERT; the test skips where it is missing."""
    return _folder("models", "gte_small")
