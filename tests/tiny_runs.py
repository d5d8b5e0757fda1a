"""Tiny runs on the built-in corpus, prepared as the pipeline does it, step by step and open to inspection."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layertune.config import RunConfig
from layertune.config.compose import compose_run, group_choice, plain_tree
from layertune.config.groups import group_file, group_names
from layertune.errors import ConfigError
from layertune.methods import Method, Preparation, build_method
from layertune.models import TaskModel, build_model, load_tokenizer
from layertune.runtime import Runtime, prepare_runtime
from layertune.tasks import Split, TaskData, load_task
from layertune.training import loop, train

DEFAULTS = ("model=tiny_bert", "task=demo", "method=low_k", "protocol=smoke", "tracking=disabled")

# Dropout off everywhere, by architecture: then two loops that compute the same must give the same.
NO_DROPOUT = {
    "tiny_bert": (
        "+model.random_config.hidden_dropout_prob=0.0",
        "+model.random_config.attention_probs_dropout_prob=0.0",
        "model.head_dropout=0.0",
    ),
    "tiny_gpt2": (
        "+model.random_config.resid_pdrop=0.0",
        "+model.random_config.embd_pdrop=0.0",
        "+model.random_config.attn_pdrop=0.0",
        "model.head_dropout=0.0",
    ),
}


def compose_tiny(folder: Path, *overrides: str) -> RunConfig:
    """Compose a run from DEFAULTS and overrides; records and caches lie below `folder`."""
    given = {item.split("=")[0] for item in overrides}
    chosen = [item for item in DEFAULTS if item.split("=")[0] not in given]
    run = composed(*chosen, *overrides)
    return dataclasses.replace(run, outputs_dir=str(folder / "outputs"), results_dir=str(folder / "results"))


@cache
def composed(*words: str) -> RunConfig:
    """Compose a run, without Hydra where no word speaks to it: it takes as long as training so little."""
    if not any(word.startswith(("~", "hydra", "method.kind=")) for word in words):
        with suppress(ConfigError):  # said by Hydra, then, as everywhere
            return RunConfig.from_hydra(
                plain_tree([word.lstrip("+") for word in words]) | {"overrides": words}
            )
    return compose_run(*words)


def options_of(method: str, model: str) -> tuple[str, ...]:
    """Return the overrides that ask for a method on a tiny model of four layers."""
    selects = (group_file("method", method) or {}).get("selector")
    named = ("method.layers=[2,4]",) if method == "layers" else ()
    return (f"model={model}", f"method={method}", *(("method.k=2",) if selects else named))


def methods_by_kind() -> Iterator[tuple[str, bool]]:
    """Yield every method, and whether it is the first of its kind: the others choose other layers."""
    known = set()
    for method in group_names("method"):
        kind = group_choice("method", method)["kind"]
        yield method, kind not in known
        known.add(kind)


def whole_but(product: Iterable[tuple[bool, Any]]) -> list[Any]:
    """Return the parameters of a product, given after whether they are of its cover; the rest is `whole`."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[pytest.mark.whole] * (not cover))
        for cover, case in product
    ]


class NoTracker:
    """Stands where a tracker would; keeps what it was told."""

    def __init__(self) -> None:
        self.entries: list[Mapping[str, Any]] = []

    def log_epoch(self, entry: Mapping[str, Any]) -> None:
        self.entries.append(entry)


@dataclass
class Prepared:
    """Everything `train` takes, after `prepare`."""

    run: RunConfig
    runtime: Runtime
    data: TaskData
    model: TaskModel
    method: Method
    prep: Preparation
    track: NoTracker = field(default_factory=NoTracker)

    @property
    def parts(self) -> tuple[Any, ...]:
        """The arguments of `train`, in order."""
        return self.run, self.model, self.data, self.method, self.runtime, self.track


def prepare(run: RunConfig) -> Prepared:
    """Prepare a run up to the first step of training."""
    runtime = prepare_runtime(run)
    data = load_task(run, *load_tokenizer(run.model))
    return prepare_with(run, runtime, data)


def prepare_with(run: RunConfig, runtime: Runtime, data: TaskData) -> Prepared:
    """Prepare a run on data that are already there."""
    model = build_model(run, data.num_outputs, data.kind).to(runtime.device)
    method = build_method(run)
    return Prepared(run, runtime, data, model, method, method.prepare(model, data, runtime))


def with_foreign(case: Prepared, name: str = "other") -> Prepared:
    """Add a foreign evaluation split: the in-domain rows under another name."""
    own = case.data.evals[case.run.task.data_name]
    foreign = dataclasses.replace(case.run.task, name=name, foreign={})
    task = dataclasses.replace(case.run.task, foreign={name: foreign})
    data = dataclasses.replace(case.data, evals={**case.data.evals, name: Split(name, own.split, own.store)})
    run = dataclasses.replace(case.run, task=task)
    return Prepared(run, case.runtime, data, case.model, case.method, case.prep, case.track)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy all parameters."""
    return {name: value.detach().cpu().clone() for name, value in model.named_parameters()}


def assert_same(first: Mapping[str, Tensor], second: Mapping[str, Tensor], atol: float = 0.0) -> None:
    """Compare parameters by name: bit for bit, or to an absolute tolerance."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(
            value, second[name], rtol=0.0, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_resumes_exactly(prepared: Callable[..., Prepared], monkeypatch: Any, *options: str) -> None:
    """A run stopped after its fifth step and taken up after the third ends as one that was never stopped."""
    options = (*options, "train.epochs=2")
    whole = prepared(*options)
    train(*whole.parts)
    options += ("checkpoint.every_steps=3",)
    steps = iter(range(100))

    def stop(self: object, *_: object) -> None:
        if next(steps) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Loop, "_show", stop)
    with pytest.raises(KeyboardInterrupt):
        train(*prepared(*options).parts)
    monkeypatch.undo()
    resumed = prepared(*options)
    train(*resumed.parts)
    assert_same(weights(whole.model), weights(resumed.model))


def timeless(history: Any) -> list[dict[str, Any]]:
    """Drop the seconds of a history: all else is the same in every repetition."""
    return [{key: value for key, value in entry.items() if not key.endswith("seconds")} for entry in history]


# What depends on the clock, the machine, or what another process left in a cache.
VOLATILE = {"created_at", "seconds", "cpu_seconds", "seconds_per_step_median", "examples_per_second"}
VOLATILE |= {"evaluation_seconds", "tokens_per_second", "peak_memory_bytes", "reused", "place"}


def lasting(tree: Any) -> Any:
    """Return the JSON of a record without what may differ from run to run."""
    if isinstance(tree, dict):
        return {key: lasting(value) for key, value in tree.items() if key not in VOLATILE}
    return [lasting(item) for item in tree] if isinstance(tree, list) else tree
