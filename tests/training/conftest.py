"""A tiny run, prepared as the pipeline does it, on the built-in corpus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from layertune.config import RunConfig
from layertune.config.compose import compose_run
from layertune.methods import Method, Preparation, build_method
from layertune.models import TaskModel, build_model, load_tokenizer
from layertune.tasks import TaskData, load_task
from layertune.training import Runtime, prepare_runtime

NO_DROPOUT = (
    "++model.random_config.hidden_dropout_prob=0.0",
    "++model.random_config.attention_probs_dropout_prob=0.0",
    "model.head_dropout=0.0",
)


class NoTracker:
    """Stands where a tracker would; keeps what it was told."""

    def __init__(self) -> None:
        self.entries: list[dict] = []

    def log_epoch(self, entry: dict) -> None:
        self.entries.append(entry)


@dataclass
class Prepared:
    run: RunConfig
    runtime: Runtime
    data: TaskData
    model: TaskModel
    method: Method
    prep: Preparation
    track: NoTracker

    @property
    def parts(self) -> tuple:
        return self.run, self.model, self.data, self.method, self.runtime, self.track


@pytest.fixture
def tiny_run(tmp_path: Path) -> Callable[..., RunConfig]:
    def make(*overrides: str) -> RunConfig:
        given = {item.split("=")[0] for item in overrides}
        defaults = ("model=tiny_bert", "task=demo", "method=low_k", "protocol=smoke", "tracking=disabled")
        folders = (f"outputs_dir={tmp_path / 'outputs'}", f"results_dir={tmp_path / 'results'}")
        chosen = [item for item in defaults if item.split("=")[0] not in given]
        return compose_run(*chosen, *folders, *overrides)

    return make


@pytest.fixture
def prepared(tiny_run: Callable[..., RunConfig]) -> Callable[..., Prepared]:
    def make(*overrides: str) -> Prepared:
        run = tiny_run(*overrides)
        runtime = prepare_runtime(run)
        data = load_task(run, *load_tokenizer(run.model))
        model = build_model(run, data.num_outputs, data.kind)
        method = build_method(run)
        return Prepared(run, runtime, data, model, method, method.prepare(model, data, runtime), NoTracker())

    return make
