"""Checks that involve more than one value: each failure is one sentence with what is allowed.

They run before anything heavy is imported, so that a wrong request ends within two seconds and nothing is
written.
"""

from __future__ import annotations

from collections.abc import Callable

from layertune.config.files import local_split_file, resolved_data_dir, splits_needed
from layertune.config.schema import ConfigError, RunConfig
from layertune.config.weights import weights_folder


def check_run(run: RunConfig) -> None:
    """Raise a ConfigError for the first thing about this run that cannot work."""
    for check in _CHECKS:
        check(run)


def _check_k(run: RunConfig) -> None:
    needs_k = run.method.selector is not None
    k, layers = run.method.k, run.model.num_layers
    if needs_k and k is None:
        raise ConfigError(f"method={run.method.name} needs method.k, between 1 and {layers - 1}.")
    if k is not None and not 1 <= k <= layers - 1:
        raise ConfigError(
            f"method.k={k} is out of range: {run.model.name} has {layers} layers, "
            f"so k is between 1 and {layers - 1}."
        )


def _check_task_fits_model(run: RunConfig) -> None:
    if run.task.kind == "generation" and run.model.family == "encoder":
        raise ConfigError(
            f"task={run.task.name} generates text and model={run.model.name} is an encoder: "
            "choose a decoder, for example model=gpt2, tinyllama or smollm2."
        )


def _check_ranges(run: RunConfig) -> None:
    train = run.train
    positive: dict[str, int | None] = {
        "train.epochs": train.epochs,
        "train.batch_size": train.batch_size,
        "train.micro_batch": train.micro_batch,
        "train.eval_batch_size": train.eval_batch_size,
        "train.num_threads": train.num_threads,
        "checkpoint.every_steps": run.checkpoint.every_steps,
        "scoring.batch_size": run.scoring.batch_size,
        "scoring.examples": run.scoring.examples if isinstance(run.scoring.examples, int) else None,
        "task.max_length": run.task.max_length,
    }
    for name, value in positive.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value} is not allowed: it is at least 1.")
    for name, rate in (
        ("learning_rate", train.learning_rate),
        ("head_learning_rate", train.head_learning_rate),
    ):
        if rate is not None and not 0 < rate < 1:
            raise ConfigError(f"train.{name}={rate} is not allowed: it lies between 0 and 1.")
    if not 0 <= run.seed < 2**32:
        raise ConfigError(f"seed={run.seed} is not allowed: it lies between 0 and {2**32 - 1}.")
    if train.micro_batch and train.batch_size and train.batch_size % train.micro_batch:
        raise ConfigError(
            f"train.micro_batch={train.micro_batch} does not divide train.batch_size={train.batch_size}."
        )


def _check_precision(run: RunConfig) -> None:
    if run.train.precision not in run.model.precisions:
        raise ConfigError(
            f"train.precision={run.train.precision} does not work with model={run.model.name}: "
            f"allowed {', '.join(run.model.precisions)}."
        )


def _check_length(run: RunConfig) -> None:
    limit = run.model.max_positions
    if limit is not None and run.task.max_length > limit:
        raise ConfigError(
            f"task.max_length={run.task.max_length} is longer than the {limit} positions "
            f"of model={run.model.name}."
        )


def _check_stage(run: RunConfig) -> None:
    if run.stage == "score" and run.method.scorer is None:
        raise ConfigError(
            f"stage=score needs a method that scores layers and method={run.method.name} does not: "
            "choose for example high_k, low_k, block_high, io_low_k, grad_norm_k or variance_k."
        )


def _check_weights_exist(run: RunConfig) -> None:
    weights_folder(run.model)


def _check_data_exist(run: RunConfig) -> None:
    folder = resolved_data_dir(run.data_dir)
    if folder is None or run.task.source != "hub":
        return
    for task, split in splits_needed(run.task, run.protocol):
        local_split_file(folder, task, split)


_CHECKS: tuple[Callable[[RunConfig], None], ...] = (
    _check_k,
    _check_task_fits_model,
    _check_ranges,
    _check_precision,
    _check_length,
    _check_stage,
    _check_weights_exist,
    _check_data_exist,
)
