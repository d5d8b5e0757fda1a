"""Score a model on evaluation splits: predictions in one pass each, then the task's metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from layertune.config import RunConfig, TaskSpec
from layertune.evaluation.metrics import compute
from layertune.scoring.layer_scores import scoring_mode
from layertune.tasks import Split, TaskData, sorted_batches

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.training.runtime import Runtime

Scores = dict[str, float | None]  # metric -> fraction; None where a metric is undefined


def score_epoch(run: RunConfig, model: TaskModel, data: TaskData, runtime: Runtime) -> dict[str, Scores]:
    """Score the in-domain split; what happens after each epoch."""
    name = run.task.data_name
    return {name: _score(run, run.task, model, data.evals[name], runtime)}


def score_foreign(run: RunConfig, model: TaskModel, data: TaskData, runtime: Runtime) -> dict[str, Scores]:
    """Score the evaluation splits of other data sets, without adaptation (§6)."""
    return {
        name: _score(run, task, model, data.evals[name], runtime) for name, task in run.task.foreign.items()
    }


def _score(run: RunConfig, task: TaskSpec, model: TaskModel, split: Split, runtime: Runtime) -> Scores:
    predictions = predict(model, split, runtime, run.train.eval_batch_size)
    names = tuple(dict.fromkeys((task.metric, *task.metrics)))
    return compute(names, predictions, np.asarray(split.store.labels))


@torch.no_grad()
def predict(model: TaskModel, split: Split, runtime: Runtime, batch_size: int) -> np.ndarray:
    """Return one prediction per example, in the split's order: a class index, or a raw score (regression)."""
    regression = model.kind == "regression"
    predictions = np.zeros(len(split), dtype=np.float32 if regression else np.int64)
    with scoring_mode(model):  # dropout off; every module returns to the mode it had
        for indices in sorted_batches(split.store.lengths, batch_size):
            batch = split.store.batch(indices).to(runtime.device)
            with runtime.accelerator.autocast():
                logits = model(batch).logits
            answers = logits.squeeze(-1).float() if regression else logits.argmax(-1)
            predictions[indices] = answers.cpu().numpy()
    return predictions


def majority_accuracy(split: Split) -> float:
    """Return the accuracy of always answering the commonest class of this split."""
    counts = np.bincount(np.asarray(split.store.labels))
    return float(counts.max() / counts.sum())
