"""Checks that involve more than one value: each failure is one sentence with what is allowed.

They run before anything heavy is imported, so that a wrong request ends within two seconds and nothing is
written.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from layertune.config.files import (
    expanded,
    local_split_file,
    own_files,
    require_writable,
    resolved_data_dir,
    splits_needed,
)
from layertune.config.identity import (
    EXAMPLE_SCORERS,
    GRADIENT_SCORERS,
    RANKING_SELECTORS,
    TOKEN_SCORERS,
    can_be_adaptive,
)
from layertune.config.kept import is_free_for, keeps_model_of
from layertune.config.schema import METRICS_OF_KIND, CacheSpec, OwnSpec
from layertune.config.weights import weights_folder
from layertune.errors import ConfigError

if TYPE_CHECKING:
    from layertune.config.run import RunConfig


log = logging.getLogger(__name__)

MERGED = ("lora", "ia3")  # kinds of methods whose changes can be folded into the weights


def check_run(run: RunConfig, on_this_machine: bool = True) -> None:
    """Raise a ConfigError for the first thing about this run that cannot work (here, or anywhere)."""
    for check in (*_CHECKS, *(_CHECKS_HERE if on_this_machine else ())):
        check(run)


def _check_k(run: RunConfig) -> None:
    needs_k = run.method.selector is not None
    k, layers = run.method.k, run.model.num_layers
    if layers < 1:
        raise ConfigError(
            f"model={run.model.name} does not say model.num_layers: give the number of its layers."
        )
    if needs_k and k is None:
        raise ConfigError(f"method={run.method.name} needs method.k, between 1 and {layers - 1}.")
    if k is not None and not 1 <= k <= layers - 1:
        raise ConfigError(
            f"method.k={k} is out of range: model={run.model.name} has {layers} layers, "
            f"so k is between 1 and {layers - 1}."
        )


def _check_random_model(run: RunConfig) -> None:
    for key, value in (run.model.random_config or {}).items():
        if isinstance(value, int) and not isinstance(value, bool) and not key.endswith("_id") and value < 1:
            raise ConfigError(f"model.random_config.{key}={value} is not allowed: sizes are at least 1.")


def _check_task_fits_model(run: RunConfig) -> None:
    if run.task.kind == "generation" and run.model.family == "encoder":
        raise ConfigError(
            f"task={run.task.name} generates text and model={run.model.name} is an encoder: "
            "choose a decoder, for example model=gpt2, tinyllama or smollm2."
        )


def _check_task(run: RunConfig) -> None:
    for task in (run.task, *run.task.foreign.values()):
        if task.kind == "classification" and task.source != "own" and len(task.labels) < 2:
            raise ConfigError(
                f"task.labels={list(task.labels)} is not allowed: task={task.name} tells classes apart and "
                "needs at least two labels."
            )
        for key, metric in [("metric", task.metric), *(("metrics", name) for name in task.metrics)]:
            if metric not in METRICS_OF_KIND[task.kind]:
                raise ConfigError(
                    f"task.{key}={metric} is not allowed: task={task.name} is a {task.kind}, "
                    f"whose metrics are {', '.join(METRICS_OF_KIND[task.kind])}."
                )
            if metric == "f1_binary" and len(task.labels) != 2:
                raise ConfigError(
                    f"task.{key}={metric} is for two labels and task={task.name} has {len(task.labels)}: "
                    "say f1_macro."
                )
        if task.best_by not in (None, task.metric, *task.metrics):
            raise ConfigError(
                f"task.best_by={task.best_by} is not computed for task={task.name}: "
                f"allowed {', '.join(dict.fromkeys((task.metric, *task.metrics)))}."
            )


def _check_foreign(run: RunConfig) -> None:
    """Foreign labels are mapped by position, so both tasks need the same number of them."""
    task = run.task
    for name, foreign in task.foreign.items():
        if (foreign.kind, len(foreign.labels)) != (task.kind, len(task.labels)):
            raise ConfigError(
                f"task {task.name} cannot be evaluated on {name}: {len(task.labels)} against "
                f"{len(foreign.labels)} labels; labels are matched by position."
            )


def _check_micro_batch(run: RunConfig) -> None:
    train = run.train
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
    limit, length = run.model.max_positions, run.task.max_length
    if limit is None:
        return
    if length > limit:
        raise ConfigError(
            f"task.max_length={length} is longer than the {limit} positions of model={run.model.name}."
        )
    new = run.task.decoding.max_new_tokens
    if run.task.kind == "generation" and length + new > limit:
        raise ConfigError(
            f"task.max_length={length} and task.decoding.max_new_tokens={new} are together longer than the "
            f"{limit} positions of model={run.model.name}."
        )


def _check_generation(run: RunConfig) -> None:
    task = run.task
    if task.kind != "generation":
        if run.eval_generation != "every":
            log.warning("eval_generation=%s has no effect: task=%s is not generated.", "last", task.name)
        return
    if task.score_text == "prompt" and run.method.scorer in GRADIENT_SCORERS:
        raise ConfigError(
            f"task.score_text=prompt leaves no reference to take a loss on, and method={run.method.name} "
            "scores layers by its gradient: say task.score_text=full."
        )


def _check_head(run: RunConfig) -> None:
    if run.task.kind == "generation" and run.method.head is not None:
        raise ConfigError(
            f"method={run.method.name} has head: {run.method.head} and task={run.task.name} is generated "
            "with the language model's own head: say method=top_k for the last k layers."
        )
    if run.task.kind == "generation" and run.head is not None:
        raise ConfigError(f"head={run.head} is for classification and task={run.task.name} is generated.")
    model = run.model
    if run.head_in_force == "standard" and (model.last_layer, model.rep_norm) != ("library", "none"):
        raise ConfigError(
            f"head=standard reads what the library's model returns, and model.last_layer={model.last_layer}, "
            f"model.rep_norm={model.rep_norm} change that: leave them out, or say head=concat."
        )


def _check_control(run: RunConfig) -> None:
    control, task = run.task.control, run.task
    if control == "none":
        return
    if run.stage != "score" or task.kind == "generation":
        raise ConfigError(
            f"task.control={control} replaces the texts that are scored: it needs stage=score and a task "
            f"that is not generated; got stage={run.stage} and task={task.name}."
        )
    if control == "other" and task.name == "demo":
        raise ConfigError(
            "task.control=other takes the texts of task=demo: choose another task, or unk, random."
        )


def _check_stage(run: RunConfig) -> None:
    if run.stage == "score" and run.method.scorer is None:
        raise ConfigError(
            f"stage=score needs a method that scores layers and method={run.method.name} does not: "
            "choose for example high_k, low_k, block_high, io_low_k, grad_norm_k or variance_k."
        )


def _check_fast(run: RunConfig) -> None:
    if run.scoring.examples == "adaptive" and not can_be_adaptive(run):
        raise ConfigError(
            f"scoring.examples=adaptive does not work with method={run.method.name}: it needs a scorer of "
            f"{', '.join(EXAMPLE_SCORERS)} and a selector of {', '.join(RANKING_SELECTORS)}."
        )
    if run.cache.layer is not None and not 2 <= run.cache.layer <= run.model.num_layers:
        raise ConfigError(
            f"cache.layer={run.cache.layer} is not allowed: it lies between 2 and {run.model.num_layers}."
        )
    if run.train.mode == "published" and run.cache != CacheSpec():
        log.warning("cache.* has no effect: train=published uses no cache; say train=fast.")


def _warn_of_inert_tokens(run: RunConfig) -> None:
    scorer = run.method.scorer
    if run.scoring.tokens == "representative" and scorer not in TOKEN_SCORERS:
        log.warning(
            "scoring.tokens=representative has no effect: method=%s %s.",
            run.method.name,
            "scores no layers" if scorer is None else f"scores by {scorer}, which does not read it",
        )


def _check_weights_exist(run: RunConfig) -> None:
    weights_folder(run.model)


def _check_own(run: RunConfig) -> None:
    own = run.own
    if run.task.source != "own":
        if own != OwnSpec():
            log.warning("own.* has no effect: task=%s has rows of its own; say task=own.", run.task.name)
        return
    if own.train is None:
        raise ConfigError(
            "task=own needs own.train=<file>, a csv, tsv, jsonl or parquet file, or the id of a data set."
        )
    columns = {key: getattr(own, key) for key in ("text", "text2", "label") if getattr(own, key) is not None}
    if len(set(columns.values())) < len(columns):
        given = ", ".join(f"own.{key}={column}" for key, column in columns.items())
        raise ConfigError(f"{given}: a column is named twice.")


def _check_own_files_exist(run: RunConfig) -> None:
    if run.task.source == "own":
        own_files(run.own)


def _check_save(run: RunConfig) -> None:
    if run.save is None:
        for key, given in (("save_epoch=best", run.save_epoch == "best"), ("merge=true", run.merge)):
            if given:
                log.warning("%s has no effect: no model is kept; say save=<folder>.", key)
        return
    if run.stage != "run":
        raise ConfigError(f"save={run.save} keeps a trained model, and stage={run.stage} trains none.")
    if run.save_epoch == "best" and not (
        run.protocol.evaluate
        and run.protocol.every_epoch
        and (run.task.kind != "generation" or run.eval_generation == "every")
    ):
        raise ConfigError(
            "save_epoch=best needs a score after each epoch, which this run does not take: say "
            "save_epoch=last."
        )
    if run.merge and run.head_in_force != "standard" and run.task.kind != "generation":
        raise ConfigError(
            f"merge=true makes a model of the library, and head={run.head_in_force} is none of "
            "its heads: say head=standard."
        )
    if run.merge and run.method.kind not in MERGED:
        raise ConfigError(
            f"merge=true folds {' and '.join(MERGED)} into the weights; method={run.method.name} has nothing "
            "to fold."
        )


def _check_save_folder(run: RunConfig) -> None:
    """Refuse a folder that holds anything but this very model, or that cannot be written."""
    if run.save is None or keeps_model_of(run):
        return
    folder = expanded(run.save)
    if not is_free_for(run):
        raise ConfigError(f"save={run.save} is not empty: name a new folder, nothing in it is overwritten.")
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(f"save={run.save} is a file: name a new folder.")
    require_writable(folder, "save=<folder>")


def _check_data_exist(run: RunConfig) -> None:
    folder = resolved_data_dir(run.data_dir)
    if run.task.source != "hub":
        return
    if folder is None:
        for spec in (run.task, *run.task.foreign.values()):
            if spec.hub is None:
                raise ConfigError(
                    f"task={spec.name} is not on the hub: give data_dir=<folder> "
                    f"that holds {spec.data_name}/<split>.csv."
                )
        return
    for task, split in splits_needed(run.task, run.protocol):
        local_split_file(folder, task, split)


_CHECKS: tuple[Callable[[RunConfig], None], ...] = (
    _check_k,
    _check_random_model,
    _check_task_fits_model,
    _check_task,
    _check_foreign,
    _check_micro_batch,
    _check_precision,
    _check_length,
    _check_stage,
    _check_control,
    _check_fast,
    _check_generation,
    _check_head,
    _check_save,
    _check_own,
    _warn_of_inert_tokens,
)
_CHECKS_HERE: tuple[Callable[[RunConfig], None], ...] = (
    _check_weights_exist,
    _check_data_exist,
    _check_own_files_exist,
    _check_save_folder,
)
