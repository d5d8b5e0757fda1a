"""layertune's own arms: the real loop, on given batches, with the cost of selection and cache beside it."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from layertune.benchmark.lengths import bucketed_batches, split_of, widths_of
from layertune.benchmark.project import Curve
from layertune.benchmark.selectors import SETS
from layertune.config import RunConfig
from layertune.config.compose import compose_run
from layertune.methods import build_method
from layertune.models import TaskModel, build_model
from layertune.scoring import cosine
from layertune.scoring.adaptive import adaptive_scores
from layertune.tasks import Provenance, Split, TaskData, epoch_batches
from layertune.training import Runtime, prepare_runtime, train
from layertune.training.cache_store import CacheStore
from layertune.training.outcome import TrainOutcome
from layertune.training.prefix_cache import build_entry, open_source

BERT_BASE = {  # random weights: time does not depend on them
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}


COPIES = 16  # of a batch in a measured entry of the cache on a CUDA device
SCORED = 2048  # examples among which adaptive scoring may choose


@dataclass(frozen=True)
class Setting:
    """What all arms share.

    Attributes:
        model: overrides that choose the model.
        task: whose head and lengths.
        batch_size: examples per optimiser step.
        epochs: of the projected training.
        precision: fp32 or bf16.
        device: cpu or cuda.
        outputs: scratch folder.
        threads: CPU threads.
    """

    model: tuple[str, ...]
    task: str
    outputs: Path
    batch_size: int = 16
    epochs: int = 3
    precision: str = "fp32"
    device: str = "cpu"
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


def bert_base(**changes: int) -> tuple[str, ...]:
    """Return overrides for a random model of BERT-base's shape, or another."""
    config = BERT_BASE | changes
    text = ",".join(f"{key}:{value}" for key, value in config.items())
    layers = config["num_hidden_layers"]
    shape = ("model.source=random", "model.revision=null", "model.pooler=false", f"model.num_layers={layers}")
    return ("model=bert", *shape, f"model.random_config={{{text}}}")


def timing(warm_up: int, steps: int) -> tuple[str, ...]:
    """Return overrides for so many timed steps after some that warm up."""
    return ("protocol=timing", f"protocol.warmup_steps={warm_up}", f"protocol.max_steps={steps}")


class NoTracker:
    """Stands where a mirror of the run would be."""

    def log_epoch(self, entry: Any) -> None:
        """Forget it."""


@dataclass
class Bench:
    """One model in one process, shared by the arms: they run one after the other."""

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

    def data(self, split: Split) -> TaskData:
        """Return a task of this training split alone."""
        task = self.setting.run("method=full").task
        provenance = Provenance("benchmark", None, "benchmark", str(len(split)), {}, (), 0.0)
        return TaskData(split, {}, provenance, task.num_outputs, task.kind)

    def train(self, run: RunConfig, data: TaskData) -> TrainOutcome:
        """Train the model in the loop."""
        method = build_method(run)
        method.prepare(self.model, data, self.runtime)
        return train(run, self.model, data, method, self.runtime, NoTracker())


@dataclass(frozen=True)
class LoopArm:
    """An arm that trains in layertune's loop.

    Attributes:
        name: letter and lowest layer, for example h10.
        title: for the table.
        overrides: method and mode.
        lowest: the lowest trained layer; None for full fine-tuning.
        scored: whether the price of choosing layers is part of the arm.
    """

    name: str
    title: str
    overrides: tuple[str, ...]
    lowest: int | None = None
    scored: bool = False
    order = staticmethod(bucketed_batches)
    pad_to = None

    @property
    def fast(self) -> bool:
        """Whether few examples decide the layers and what lies below them is cached."""
        return "train=fast" in self.overrides

    def steps(self, bench: Bench, batches: list[np.ndarray]) -> tuple[Curve, int | None]:
        """Train on batches of these lengths, after one more that is not timed; on a CUDA device after all of
        them, as each new width costs a capture there.

        Returns:
            The cost of a step, and the layer below which states were cached (None: no cache).
        """
        shutil.rmtree(bench.setting.outputs / "cache", ignore_errors=True)
        warm = len(batches) if bench.runtime.device.type == "cuda" else 1
        run = bench.setting.run(*self.overrides, *timing(warm, len(batches)))
        data = bench.data(split_of(np.concatenate(batches), run.task.max_length))
        outcome = bench.train(run, data)
        lengths = data.train.store.lengths
        order = epoch_batches(lengths, bench.setting.batch_size, seed=run.seed, epoch=1, task=run.task.name)
        first = warm % len(order)  # those before it have warmed up
        timed = [lengths[rows] for rows in (*order[first:], *order[:first])]
        return Curve(tuple(widths_of(timed).tolist()), outcome.step_seconds), outcome.cache.layer


def cache_curve(bench: Bench, layer: int, batches: list[np.ndarray]) -> Curve:
    """Return the cost of the cache by batches of its own pass, with its checks and its opening.

    On a CUDA device an entry holds `COPIES` of a batch, else what comes once per entry would be most of it.
    """
    device = bench.runtime.device
    copies = COPIES if device.type == "cuda" else 1
    cache = CacheStore(bench.setting.outputs / "cache" / "measured", 10**12)
    autocast = bench.runtime.accelerator.autocast
    now, seconds = clock_of(device), []
    for lengths in batches:
        store, key = split_of(np.tile(lengths, copies), None).store, {"layer": layer}
        shutil.rmtree(cache.folder, ignore_errors=True)
        start = now()
        build_entry(bench.model, store, layer, "bf16", cache, key, autocast)
        entry = cache.find(key)
        assert entry is not None
        open_source(entry, store, layer, torch.float32, device)
        seconds.append(float(now() - start) / copies)
    return Curve(tuple(widths_of(batches).tolist()), tuple(seconds))


def selection_curve(bench: Bench, batches: list[np.ndarray]) -> Curve:
    """Return the cost of scoring all examples, by batches of that pass."""
    now, seconds = clock_of(bench.runtime.device), []
    for lengths in batches:
        store = split_of(lengths, None).store
        start = now()
        cosine(bench.model, [store.batch(np.arange(len(store)))])
        seconds.append(now() - start)
    return Curve(tuple(widths_of(batches).tolist()), tuple(seconds))


def selection_seconds(bench: Bench, lengths: np.ndarray) -> tuple[float, int]:
    """Return the cost of choosing layers where few examples decide, and how many it took of these weights."""
    store = split_of(lengths[:SCORED], None).store
    now = clock_of(bench.runtime.device)
    start = now()
    scores = adaptive_scores(cosine, bench.model, store, "lowest", 3)
    return float(now() - start), scores.examples


def clock_of(device: torch.device) -> Any:
    """Return the clock of a device: CPU time of this process, or wall-clock time once a GPU is done."""
    if device.type == "cpu":
        return time.process_time

    def synchronised() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return synchronised


def loop_arms() -> list[LoopArm]:
    """Return (f) full, (g) published and (h) fast, the latter two for each set of layers."""
    arms = [LoopArm("f", "layertune full", ("method=full", "train=published"))]
    for letter, mode in (("g", "published"), ("h", "fast")):
        for lowest, chosen in SETS.items():
            title = f"layertune {mode}, lowest layer {lowest}"
            arms.append(LoopArm(f"{letter}{lowest}", title, (*chosen, f"train={mode}"), lowest, scored=True))
    return arms
