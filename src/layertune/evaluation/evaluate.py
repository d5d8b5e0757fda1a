"""Score a model on evaluation splits: predictions in one pass each, then the task's metrics.

One split is scored after each epoch. What costs more, or must not pick the epoch, waits for the last and the
best one: splits of other data sets (§6), the test split of a generation task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import numpy as np
import torch

from layertune.config import RunConfig, TaskSpec
from layertune.config.files import file_sha256
from layertune.evaluation.generation import (
    forced_scores,
    generate,
    predictions_path,
    save_predictions,
    score_outputs,
)
from layertune.evaluation.metrics import compute
from layertune.models.backbone import scoring_mode
from layertune.records.record import Scores
from layertune.tasks import Split, TaskData, sorted_batches

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.runtime import Runtime

log = logging.getLogger(__name__)

OnPredictions = Callable[[Split, np.ndarray], None]
_watcher: ContextVar[OnPredictions | None] = ContextVar("_watcher", default=None)


@contextmanager
def watched(on_predictions: OnPredictions) -> Iterator[None]:
    """Show the predictions of every split that is scored within the block, one per example in its order."""
    token = _watcher.set(on_predictions)
    try:
        yield
    finally:
        _watcher.reset(token)


def score_epoch(run: RunConfig, model: TaskModel, data: TaskData, runtime: Runtime) -> dict[str, Scores]:
    """Score the split of each epoch; in generation its outputs only under `eval_generation=every`."""
    split = data.evals[data.each_epoch]
    if data.kind != "generation":
        return {split.name: _score(run, run.task, model, split, runtime)}
    forced = forced_scores(model, split, runtime, run.train.eval_batch_size)
    if not picks_best(run):
        return {split.name: forced}
    outputs = generate(model, split, data.tokenizer, run.task.decoding, runtime)
    return {split.name: score_outputs(outputs, split) | forced}


def picks_best(run: RunConfig) -> bool:
    """Whether an epoch can be best: the metric that decides is there after each."""
    return run.task.kind != "generation" or run.eval_generation == "every"


def waiting_splits(run: RunConfig, data: TaskData) -> tuple[str, ...]:
    """Name the splits that are scored at the last and the best epoch only."""
    others = tuple(name for name in data.evals if name != data.each_epoch)
    return others or (() if picks_best(run) else (data.each_epoch,))


def score_rest(
    run: RunConfig, model: TaskModel, data: TaskData, runtime: Runtime, epoch: int
) -> dict[str, Scores]:
    """Score the splits that wait: foreign ones without adaptation (§6), the outputs of a test split.

    Args:
        run: what is asked.
        model: the model as it is after `epoch`.
        data: holds the splits.
        runtime: where to compute.
        epoch: names the file that keeps the outputs.
    """
    found: dict[str, Scores] = {}
    for name in waiting_splits(run, data):
        split = data.evals[name]
        if data.kind == "generation":
            found[name] = _score_generated(run, model, data, split, runtime, epoch)
        else:
            found[name] = _score(run, run.task.foreign[name], model, split, runtime)
    return found


def saved_outputs(run: RunConfig, data: TaskData, epochs: Iterable[int]) -> dict[str, str | None] | None:
    """Return the files that keep the outputs of some epochs and their sha256, None where one is gone.

    None for a task that generates nothing.
    """
    if data.kind != "generation":
        return None
    splits = [data.evals[name] for name in waiting_splits(run, data)]
    paths = [predictions_path(run, split, epoch) for epoch in epochs for split in splits]
    return {path.name: file_sha256(path) if path.is_file() else None for path in paths}


def _score_generated(
    run: RunConfig, model: TaskModel, data: TaskData, split: Split, runtime: Runtime, epoch: int
) -> Scores:
    outputs = generate(model, split, data.tokenizer, run.task.decoding, runtime)
    save_predictions(predictions_path(run, split, epoch), split, outputs)
    log.info("epoch %d, %s: %d outputs, the first: %s", epoch, split.split, len(outputs), outputs[0])
    scores = score_outputs(outputs, split, secondary=True)
    return scores | forced_scores(model, split, runtime, run.train.eval_batch_size)


def _score(run: RunConfig, task: TaskSpec, model: TaskModel, split: Split, runtime: Runtime) -> Scores:
    predictions = predict(model, split, runtime, run.train.eval_batch_size)
    if (watcher := _watcher.get()) is not None:
        watcher(split, predictions)
    names = tuple(dict.fromkeys((task.metric, *task.metrics)))
    return compute(names, predictions, np.asarray(split.store.labels))


@torch.no_grad()
def predict(model: TaskModel, split: Split, runtime: Runtime, batch_size: int) -> np.ndarray:
    """Return one prediction per example, in the split's order: a class index, or a raw score (regression)."""
    regression = model.kind == "regression"
    batches = sorted_batches(split.store.lengths, batch_size)
    answers = []  # on the device, which is waited for once, at the end
    with scoring_mode(model):  # dropout off; every module returns to the mode it had
        for indices in batches:
            batch = split.store.batch(indices).to(runtime.device)
            with runtime.autocast():
                logits = model(batch).logits
            answers.append(logits.squeeze(-1).float() if regression else logits.argmax(-1))
    predictions = np.zeros(len(split), dtype=np.float32 if regression else np.int64)
    if answers:
        predictions[np.concatenate(batches)] = torch.cat(answers).cpu().numpy()
    return predictions


def majority_accuracy(split: Split) -> float:
    """Return the accuracy of always answering the commonest class of this split."""
    counts = np.bincount(np.asarray(split.store.labels))
    return float(counts.max() / counts.sum())
