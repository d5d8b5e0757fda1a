"""Fine-tune a model of the library in place, from a script: choose layers, train them in fast mode, score.

    result = fine_tune(model, tokenizer, train=(texts, labels), k=3, strategy="low_k")

The loop, the cache and the choice of layers are those of a run (`train=fast`); no record is written.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layertune.config import RunConfig
from layertune.config.compose import plain_run
from layertune.errors import ConfigError, DataError, said_in
from layertune.methods import build_method
from layertune.methods.selected import NamedLayers, SelectedLayers
from layertune.models import Backbone, TaskModel
from layertune.models.architectures import refuse_other_than_one_stack
from layertune.models.backbone import full_precision
from layertune.models.heads import name_labels, standard_head_of
from layertune.models.limits import refuse_what_does_not_fit, usable_positions
from layertune.models.loading import known_tokens, refuse_half_a_tokenizer
from layertune.models.probe import probe
from layertune.records.record import DataRecord
from layertune.records.tracking import Tracker
from layertune.runtime import prepare_runtime
from layertune.tasks import Split, TaskData
from layertune.tasks.encode import encode, is_decoder
from layertune.tasks.given import Text, text_columns
from layertune.tasks.rows import Rows, split_off
from layertune.training import train as train_loop

if TYPE_CHECKING:
    from layertune.scoring import LayerScores

WORDS = {f"train.{key}=": f"{key}=" for key in ("epochs", "learning_rate", "batch_size", "device")} | {
    "task.max_length=": "max_length=",
    "method.layers": "layers",
    "method.k=": "k=",
    "method.k": "k",
    "method=": "strategy=",
    "model=own": "the model",
}  # of `run.py`, and what stands for them here
Labelled = tuple[Sequence[Text], Sequence[Any]]


@dataclass(frozen=True)
class FineTuned:
    """What `fine_tune` did.

    Attributes:
        metrics: on the evaluation rows after the last epoch, as fractions; empty where nothing was evaluated.
        layers: that were trained, counted from 1; None where the strategy chooses none (full, head_only).
        scores: of the layers; None without.
        trained_parameters: how many numbers were trained.
        seconds: choosing layers, filling the cache, training.
        history: one entry per epoch: its loss, seconds and metrics.
    """

    metrics: dict[str, float | str | None]
    layers: tuple[int, ...] | None
    scores: LayerScores | None
    trained_parameters: int
    seconds: dict[str, float]
    history: tuple[dict[str, Any], ...]


def fine_tune(
    model: Any,
    tokenizer: Any,
    train: Labelled,
    eval: Labelled | float | None = 0.1,
    *,
    k: int = 3,
    strategy: str = "low_k",
    layers: Sequence[int] | None = None,
    epochs: int = 3,
    learning_rate: float = 1e-4,
    batch_size: int = 16,
    max_length: int = 256,
    seed: int = 0,
    device: str = "auto",
) -> FineTuned:
    """Train a few layers of a model in place, in the fast mode, and its classification head.

    Weights in half precision, as many models are stored, are trained and left in fp32, like those of a run:
    rounded to 16 bits, the steps of a training would be lost.

    Args:
        model: an `AutoModelForSequenceClassification`; one output means regression.
        tokenizer: its tokenizer.
        train: texts (strings, or pairs as tuples) and their labels: ids, names that `model.config.label2id`
            knows, or as many different values as the model has labels, whose names it is then given.
        eval: the same for evaluation; a share of the training rows to hold out; None evaluates nothing.
        k: how many layers.
        strategy: a method that chooses layers (low_k, high_k, block_low, random_k, …), full or head_only.
        layers: train these, counted from 1, instead of choosing.
        epochs, learning_rate, batch_size: of the training.
        max_length: longer texts are cut to this many tokens.
        seed: of the order of rows, dropout and random choices; the caller's generators are left as they were.
        device: auto, cpu or cuda; the model returns to where it was.

    Raises:
        ConfigError: the request cannot be met: no such strategy, labels that the model lacks, k out of range.
    """
    config = getattr(model, "config", None)
    if not hasattr(model, "base_model") or not hasattr(config, "num_labels"):
        raise ConfigError(
            f"fine_tune takes an AutoModelForSequenceClassification and got a {type(model).__name__}."
        )
    refuse_other_than_one_stack(model.base_model.config, type(model).__name__)
    refuse_half_a_tokenizer(type(model).__name__, tokenizer, known_tokens(config))
    regression = config.num_labels == 1
    if is_decoder(tokenizer):  # the library finds the last token of a text by its padding
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        config.get_text_config().pad_token_id = tokenizer.pad_token_id
    max_length = min(max_length, usable_positions(model.base_model) or max_length)
    rows = _rows(train, model, regression)
    held_out = None
    if isinstance(eval, float):
        if not 0 < eval < 1:
            raise ConfigError(f"eval={eval} is not allowed: a share between 0 and 1, rows, or None.")
        rows, held_out = split_off(rows, max(1, round(eval * len(rows))), seed)
    elif eval is not None:
        held_out = _rows(eval, model, regression)
    words = [
        *("model=own", f"model.num_layers={config.num_hidden_layers}"),
        *(
            "task=own",
            "own.train=given/rows",
            f"task.max_length={max_length}",
            "tracking=disabled",
            "train=fast",
        ),
        *(f"train.epochs={epochs}", f"train.learning_rate={learning_rate}", f"train.batch_size={batch_size}"),
        *(f"train.device={device}", f"seed={seed}", f"protocol.evaluate={str(held_out is not None).lower()}"),
        *(["own.regression=true"] if regression else []),
        *(["own.text2=text2"] if len(rows.texts) == 2 else []),
    ]
    if layers is not None:
        words += ["method=layers", f"method.layers={list(layers)}"]
    else:
        words += [f"method={strategy}", *([] if strategy in ("full", "head_only") else [f"method.k={k}"])]
    before = next(model.parameters()).device
    mode = model.training
    with tempfile.TemporaryDirectory() as scratch, _own_generators(), said_in(WORDS):
        run = plain_run([*words, f"outputs_dir={scratch}"])
        try:
            with _wrapped(model) as wrapped:
                return _trained(run, wrapped, rows, held_out, tokenizer)
        finally:
            model.to(before).train(mode)


def _trained(
    run: RunConfig, model: TaskModel, rows: Rows, held_out: Rows | None, tokenizer: Any
) -> FineTuned:
    runtime = prepare_runtime(run)
    splits = [
        Split("own", name, encode(each, tokenizer, run.task))
        for name, each in (("train", rows), ("validation", held_out or rows))
    ]
    kind = "regression" if run.task.kind == "regression" else "classification"
    counts = {"train": len(rows), "own": len(splits[1])}
    provenance = DataRecord("given", None, "own", rows.fingerprint(), counts, (), 0.0)
    data = TaskData(splits[0], {"own": splits[1]}, provenance, 0, kind, tokenizer)
    refuse_what_does_not_fit(model.backbone.model, *data.extent)
    model.kind = kind
    for stored in (*model.parameters(), *model.buffers()):
        stored.data = full_precision(stored.data)
    model.to(runtime.device)
    method = build_method(run)
    prep = method.prepare(model, data, runtime)
    with Tracker(run) as track:
        outcome = train_loop(run, model, data, method, runtime, track)
    chosen = prep.layers if isinstance(method, SelectedLayers | NamedLayers) else None
    return FineTuned(
        metrics=outcome.last.get("own", {}) if held_out is not None else {},
        layers=chosen,
        scores=prep.scores,
        trained_parameters=prep.expected_trainable,
        seconds={
            "choosing": 0.0 if prep.scores is None else prep.scores.seconds,
            "cache": outcome.cache.seconds,
            "training": outcome.seconds,
        },
        history=outcome.history,
    )


@contextmanager
def _wrapped(model: Any) -> Iterator[TaskModel]:
    """Take a model of the library for the length of the block as backbone and head; nothing is copied."""
    backbone = Backbone(model.base_model, "first")
    backbone.representative_token = "last" if probe(backbone) else backbone.architecture.token
    pooler = backbone.pooler
    head = standard_head_of(model, backbone)
    if pooler is not None:
        model.base_model.pooler = None  # it is the head's, or nobody's
    try:
        yield TaskModel(backbone, head, "classification")
    finally:
        if pooler is not None:
            model.base_model.pooler = pooler


@contextmanager
def _own_generators() -> Iterator[None]:
    """Leave the caller's random generators and torch's threads as they were."""
    python, numbers, threads = random.getstate(), np.random.get_state(), torch.get_num_threads()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numbers)
        torch.set_num_threads(threads)


def _rows(given: Labelled, model: Any, regression: bool) -> Rows:
    """Return texts and labels as rows; a model whose labels have no names yet is given them."""
    if not isinstance(given, tuple) or len(given) != 2:
        raise DataError("rows are given as (texts, labels): two lists of one length.")
    texts, labels = ([*part] for part in given)
    if not texts or len(texts) != len(labels):
        raise DataError(f"{len(texts)} texts and {len(labels)} labels are given: two lists of one length.")
    columns = text_columns(texts)
    if regression:
        return Rows(columns, np.asarray(labels, dtype=np.float32))
    return Rows(columns, np.array(label_ids(labels, model.config), dtype=np.int64))


def label_ids(labels: Sequence[Any], config: Any) -> list[int]:
    """Return the ids of labels: ids already, names that the model knows, or names that it is given now.

    Raises:
        DataError: there are more than the model has, or others than it knows.
    """
    plain = [label.item() if isinstance(label, np.generic) else label for label in labels]
    number = config.num_labels
    if all(type(label) is int and 0 <= label < number for label in plain):
        return plain
    names = [str(label) for label in plain]
    unnamed = set(config.label2id) == {f"LABEL_{i}" for i in range(number)}
    found = sorted(set(names))
    if unnamed and len(found) == number:
        name_labels(config, found)
    if unknown := [name for name in found if name not in config.label2id]:
        raise DataError(
            f"the label {unknown[0]!r} is none of the model's {number} ({', '.join(config.label2id)}): load "
            f"the model with num_labels={len(found)}."
        )
    return [config.label2id[name] for name in names]
