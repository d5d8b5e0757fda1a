"""The arms: layertune's own loop, and what its users would take instead, Hugging Face's `Trainer` alone,
grouping by length, padding to the maximum, with peft's LoRA, or with layers frozen by hand. Model, head,
optimiser and batch size are the same in all, and precision in all but one.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layertune.config import RunConfig
from layertune.config.compose import compose_run
from layertune.methods import build_method
from layertune.models import TaskModel, build_model
from layertune.records.record import DataRecord
from layertune.records.tracking import Tracker
from layertune.runtime import Runtime, prepare_runtime
from layertune.tasks import Split, TaskData, epoch_batches
from layertune.training import train
from layertune.training.outcome import TrainOutcome
from scripts.benchmark.lengths import (
    FIRST_TOKEN,
    LAST_TOKEN,
    Order,
    bucketed_batches,
    grouped_batches,
    random_batches,
    split_of,
    widths_of,
)
from scripts.benchmark.project import BASE, LORA, PADDED, PADDING, USER, Curve

LORA_RANK = 16
NARROW = 8  # tokens of the examples of a step that warms up
SETS = {
    "top3": (10, 11, 12),
    "middle3": (5, 6, 7),
    "spread3": (4, 8, 12),
    "bottom3": (1, 2, 3),
}  # of 12 layers
BERT_BASE = {  # random weights: time does not depend on them
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}


def random_model(name: str, config: dict[str, Any]) -> tuple[str, ...]:
    """Return overrides for a model of this shape with random weights."""
    text = ",".join(f"{key}:{value}" for key, value in config.items())
    return f"model={name}", "model.source=random", "model.revision=null", f"model.random_config={{{text}}}"


def bert_base(**changes: int) -> tuple[str, ...]:
    """Return overrides for a random model of BERT-base's shape, or another."""
    config = BERT_BASE | changes
    layers = f"model.num_layers={config['num_hidden_layers']}"
    return *random_model("bert", config), "model.pooler=false", layers


def timing(warm_up: int, steps: int) -> tuple[str, ...]:
    """Return overrides for so many timed steps after some that warm up."""
    return "protocol=timing", f"protocol.warmup_steps={warm_up}", f"protocol.max_steps={steps}"


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return the clock of a device: CPU time of this process, or wall-clock time once a GPU is done."""
    if device.type == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


@dataclass(frozen=True)
class Setting:
    """What all arms share."""

    model: tuple[str, ...]  # overrides that choose it
    task: str  # whose head and lengths
    outputs: Path  # scratch
    batch_size: int = 16
    epochs: int = 3  # of a whole training
    precision: str = "fp32"  # or bf16
    device: str = "cpu"  # or cuda
    threads: int = 1

    def run(self, *overrides: str) -> RunConfig:
        """Compose a run."""
        return compose_run(
            *self.model,
            f"task={self.task}",
            f"train.batch_size={self.batch_size}",
            f"train.precision={self.precision}",
            f"train.device={self.device}",
            f"train.num_threads={self.threads}",
            "tracking=disabled",
            f"outputs_dir={self.outputs}",
            *overrides,
        )


@dataclass
class Bench:
    """One model in one process, which the arms train one after the other."""

    setting: Setting
    runtime: Runtime
    model: TaskModel
    variants: dict[str, TaskModel] = field(default_factory=dict)  # copies that an arm had to change

    @classmethod
    def start(cls, setting: Setting) -> Bench:
        """Load the model."""
        run = setting.run("method=full")
        runtime = prepare_runtime(run)
        model = build_model(run, run.task.num_outputs, run.task.kind).to(runtime.device)
        return cls(setting, runtime, model)

    @property
    def on_cuda(self) -> bool:
        """Whether steps run on a CUDA device, where each new width loads kernels or captures a graph."""
        return self.runtime.device.type == "cuda"

    def data(self, split: Split) -> TaskData:
        """Return a task that holds this training split alone."""
        task = self.setting.run("method=full").task
        provenance = DataRecord("benchmark", None, "benchmark", str(len(split)), {}, (), 0.0)
        return TaskData(split, {}, provenance, task.num_outputs, task.kind)

    def train(self, run: RunConfig, data: TaskData) -> TrainOutcome:
        """Train the model in layertune's loop."""
        method = build_method(run)
        method.prepare(self.model, data, self.runtime)
        return train(run, self.model, data, method, self.runtime, Tracker(run))


@dataclass(frozen=True)
class Arm:
    """One way to fine-tune."""

    name: str  # by which it is asked for
    title: str  # what it is
    layers: tuple[int, ...] | None = None  # that train, from 1; None = all, or what a method adds
    order: Order = random_batches  # of an epoch's batches
    pad_to: int | None = None  # tokens; None = the longest of the batch
    mode: str | None = None  # of layertune's loop, published or fast; None = `Trainer`
    precision: str | None = None  # of its own; None = the setting's

    @property
    def facts(self) -> dict[str, Any]:
        """What the result file says of the arm."""
        return {"arm": self.name, "title": self.title, "lowest": self.layers[0] if self.layers else None}

    @property
    def scored(self) -> bool:
        """Whether the price of choosing layers is part of the arm."""
        return self.mode is not None and self.layers is not None

    def steps(self, bench: Bench, batches: list[np.ndarray]) -> tuple[Curve, int | None]:
        """Train on batches of these lengths, after steps that are not timed.

        Returns:
            The cost of a step, and the layer below which states were cached (None: no cache).
        """
        raise NotImplementedError


@dataclass(frozen=True)
class LoopArm(Arm):
    """An arm that trains in layertune's loop."""

    order: Order = bucketed_batches
    mode: str = "published"

    @property
    def overrides(self) -> tuple[str, ...]:
        """What a run of it is composed of."""
        if self.layers is None:
            return "method=full", f"train={self.mode}"
        return "method=layers", f"method.layers=[{','.join(map(str, self.layers))}]", f"train={self.mode}"

    def steps(self, bench: Bench, batches: list[np.ndarray]) -> tuple[Curve, int | None]:
        """Train on the batches after one more that is not timed; on a CUDA device after all of them, as each
        new width costs a capture there.
        """
        shutil.rmtree(bench.setting.outputs / "cache", ignore_errors=True)
        warm = len(batches) if bench.on_cuda else 1
        run = bench.setting.run(*self.overrides, *timing(warm, len(batches)))
        data = bench.data(split_of(np.concatenate(batches), run.task.max_length))
        outcome = bench.train(run, data)
        lengths = data.train.store.lengths
        order = epoch_batches(lengths, bench.setting.batch_size, seed=run.seed, epoch=1, task=run.task.name)
        first = warm % len(order)  # those before it have warmed up
        timed = [lengths[rows] for rows in (*order[first:], *order[:first])]
        return Curve(tuple(widths_of(timed).tolist()), outcome.step_seconds), outcome.cache.layer


Example = dict[str, Any]  # input_ids, labels


@dataclass(frozen=True)
class TrainerArm(Arm):
    """An arm that trains with `Trainer`: all layers, those that are not frozen by hand, or peft's LoRA."""

    lora: bool = False

    def steps(self, bench: Bench, batches: list[np.ndarray]) -> tuple[Curve, None]:
        """Train on the batches after a narrow one that is not timed: it makes the optimiser's state; on a
        CUDA device after all of them, as for the loop's arms. There is no cache.

        An arm that pads to the maximum takes `PADDED` steps, and the shortest stands for all: they are alike,
        but the first ones wait for memory.
        """
        batches = batches[:PADDED] if self.pad_to else batches
        warm = batches if bench.on_cuda else [np.minimum(batches[0], NARROW)]
        seconds = self.train(bench, _examples(np.concatenate([*warm, *batches])))[len(warm) - 1 :]
        if self.pad_to:
            return Curve((self.pad_to,), (min(seconds),)), None
        return Curve(tuple(widths_of(batches).tolist()), seconds), None

    def train(self, bench: Bench, examples: list[Example]) -> tuple[float, ...]:
        """Train once over examples, in batches as they come; return the seconds of every step but the first,
        which warms up: loading and collating of batches included.
        """
        from scripts.benchmark.trainer import step_seconds  # whose needs are not on every machine

        return step_seconds(self, bench, examples)


def _examples(lengths: np.ndarray) -> list[Example]:
    rng = np.random.default_rng(0)
    return [
        {"input_ids": rng.integers(FIRST_TOKEN, LAST_TOKEN, length).tolist(), "labels": int(rng.integers(2))}
        for length in lengths
    ]


def _all_arms(max_length: int = 256) -> list[Arm]:
    words = {name: f"layers {' '.join(map(str, layers))}" for name, layers in SETS.items()}
    return [
        TrainerArm(BASE, "Trainer, full, dynamic padding"),
        TrainerArm(USER, "Trainer, full, fp32: as it comes, where the others are in bf16", precision="fp32"),
        TrainerArm("trainer_full_grouped", "Trainer, full, grouped by length", order=grouped_batches),
        TrainerArm(PADDING, f"Trainer, full, padded to {max_length}", pad_to=max_length),
        TrainerArm(LORA, f"Trainer, peft LoRA r = {LORA_RANK}", lora=True),
        *(TrainerArm(f"trainer_{name}", f"Trainer, {words[name]} by hand", SETS[name]) for name in SETS),
        LoopArm("published_full", "layertune full"),
        *(
            LoopArm(f"{mode}_{name}", f"layertune {mode}, {words[name]}", SETS[name], mode=mode)
            for mode in ("published", "fast")
            for name in SETS
        ),
    ]


ARMS = {arm.name: arm for arm in _all_arms()}
