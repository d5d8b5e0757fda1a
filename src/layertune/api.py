"""Layer selection for your own training script: score, select, freeze (§3), on any model of transformers.

    scores = score_layers(model, (tokenizer, texts))
    layers = select_layers(scores, k=3, strategy="low_k")
    freeze_all_but(model, layers)          # then train as usual; the optimiser may be given all parameters

The scores are computed by the same code as those of the paper's tables.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from layertune.config import ConfigError
from layertune.config.names import resolve_name
from layertune.models import Backbone, ModelError, TaskModel
from layertune.models.blocks import find_layers
from layertune.scoring import SCORERS, LayerScores
from layertune.selection import SELECTORS
from layertune.tasks import Batch, TokenStore, sorted_batches

STRATEGIES = {  # the paper's names for the rules in SELECTORS
    "high_k": "highest",
    "low_k": "lowest",
    "block_high": "block_highest",
    "block_low": "block_lowest",
    "random_k": "random",
    "top_k": "top",
    "bottom_k": "bottom",
}


def score_layers(
    model: nn.Module,
    data: Iterable[Mapping[str, Any]] | tuple[Any, Sequence[str | tuple[str, str]]],
    scorer: str = "cosine",
    *,
    representative: Literal["auto", "first", "last"] = "auto",
    last_layer: Literal["library", "raw"] = "library",
    tokens: Literal["all", "representative"] | None = None,
    max_length: int = 256,
    batch_size: int = 32,
) -> LayerScores:
    """Score the layers of a pretrained model on the texts it will be fine-tuned on (§3.1).

    Args:
        model: a model of transformers, with or without a task head; it is left as it was.
        data: `(tokenizer, texts)`, a text being a string or a pair of strings; or batches (a DataLoader) of
            dictionaries with `input_ids` and `attention_mask` [B, T], padded on the right.
        scorer: cosine, euclidean, io_cosine, feature_variance; gradient_norm needs batches with `labels` and
            the head the model has.
        representative: the token that stands for a text: the first or the last; `auto` takes the last for
            causal models and the first for all others.
        last_layer: decoders: the state of the last layer after the final norm (`library`) or before (`raw`).
        tokens: io_cosine and feature_variance: which tokens they read; None is each scorer's own default.
        max_length: longest text in tokens, where texts are given.
        batch_size: texts per forward pass, where texts are given.

    Raises:
        ModelError: the model is not one of transformers, or its layers cannot be found.
        ConfigError: unknown scorer, no data, or batches that do not fit.
    """
    wrapped = _wrap(model, representative, last_layer)
    score = resolve_name(scorer, SCORERS, "scorer")
    options = {} if tokens is None else {"tokens": tokens}
    if tokens is not None and scorer not in ("io_cosine", "feature_variance"):
        raise ConfigError(f"tokens={tokens} has no meaning for scorer={scorer}.")
    needs_labels = scorer == "gradient_norm"
    if isinstance(data, tuple) and len(data) == 2 and callable(data[0]):
        if needs_labels:
            raise ConfigError("scorer=gradient_norm needs labels: give batches, not (tokenizer, texts).")
        batches = _from_texts(*data, min(max_length, _positions(model)), batch_size)
    else:
        batches = (_from_mapping(batch, needs_labels) for batch in data)
    return score(wrapped, batches, **options)


def select_layers(
    scores: LayerScores | Sequence[float], k: int, strategy: str = "low_k", seed: int = 0
) -> tuple[int, ...]:
    """Choose k layers by their scores (§3.1); returns their numbers, counted from 1, ascending.

    Args:
        scores: what `score_layers` returned, or one number per layer.
        k: how many, at least one and fewer than there are.
        strategy: low_k, high_k, block_low, block_high, block_median, random_k, block_random, top_k or
        bottom_k. seed: of the random strategies.

    Raises:
        ConfigError: unknown strategy, or k out of range.
    """
    values = scores.values if isinstance(scores, LayerScores) else tuple(scores)
    rules = {name: SELECTORS[rule] for name, rule in STRATEGIES.items()} | SELECTORS
    return resolve_name(strategy, rules, "strategy")(len(values), k, values, random.Random(seed))


def freeze_all_but(
    model: nn.Module, layers: Sequence[int], *, train_head: bool = True, also: Sequence[str] = ()
) -> int:
    """Freeze a model but for the named layers and its task head (§3.2); return the number of trained
    parameters.

    The head is everything outside the base model (`classifier`, `score`, ...). A language-model head tied
    to the embeddings stays frozen with them. Can be called again with other layers.

    Args:
        model: a model of transformers.
        layers: layer numbers, counted from 1.
        train_head: whether the head is trained.
        also: further modules to train, by their dotted name or its end, for example `pooler`.

    Raises:
        ConfigError: a layer or module that the model does not have, or nothing left to train.
    """
    base = _base_of(model)
    blocks = base.get_submodule(find_layers(base))
    wrong = [layer for layer in layers if not 1 <= layer <= len(blocks)]
    if wrong:
        raise ConfigError(f"the model has no layer {wrong[0]}: layers are numbered from 1 to {len(blocks)}.")
    chosen: list[nn.Module] = [blocks[layer - 1] for layer in layers]
    for name in also:
        found = [module for path, module in model.named_modules() if f".{path}".endswith(f".{name}")]
        if not found:
            raise ConfigError(f"also={name}: the model has no module of that name.")
        chosen += found
    model.requires_grad_(False)
    if train_head:
        inside = {id(parameter) for parameter in base.parameters()}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) not in inside)
    for module in chosen:
        module.requires_grad_(True)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if trained == 0:
        raise ConfigError(
            "nothing is left to train: name a layer, or train_head=True for a model with a head."
        )
    return trained


class _Wrapped(TaskModel):
    """The user's model in the shape that the scorers read; nothing is copied."""

    def __init__(self, whole: nn.Module, backbone: Backbone) -> None:
        super().__init__(backbone, nn.Identity(), "external")
        self.whole = whole

    def forward(self, batch: Batch) -> Any:
        return self.whole(**self.backbone.inputs(batch), labels=batch.labels)

    def with_fresh_head(self, seed: int) -> TaskModel:
        return self


def _wrap(model: nn.Module, representative: str, last_layer: Literal["library", "raw"]) -> _Wrapped:
    base = _base_of(model)
    if representative == "auto":
        representative = "last" if _is_causal(base) else "first"
    if representative not in ("first", "last"):
        raise ConfigError(f"representative={representative} is not allowed: auto, first or last.")
    return _Wrapped(model, Backbone(base, representative, last_layer))


def _base_of(model: nn.Module) -> nn.Module:
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"layertune works on models of transformers and got a {type(model).__name__}: "
            "unwrap it first (peft: before get_peft_model; DistributedDataParallel: model.module)."
        )
    config = model.config
    if config.is_encoder_decoder or getattr(config, "num_hidden_layers", None) is None:
        raise ModelError(
            f"{type(model).__name__} is not a single stack of layers; encoders and decoders are."
        )
    return model.base_model


def _is_causal(base: nn.Module) -> bool:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
    )

    if getattr(base.config, "is_decoder", False):  # BERT's family can be told to attend to the left only
        return True
    kind = type(base.config)
    return kind in MODEL_FOR_CAUSAL_LM_MAPPING and kind not in MODEL_FOR_MASKED_LM_MAPPING


def _positions(model: nn.Module) -> int:
    config = model.config
    positions = getattr(config, "max_position_embeddings", None) or 1 << 30
    # RoBERTa and MPNet keep the first positions for themselves, up to and including the padding id.
    return positions - (config.pad_token_id + 1 if config.model_type in ("roberta", "mpnet") else 0)


def _from_texts(
    tokenizer: Any, texts: Sequence[str | tuple[str, str]], max_length: int, batch_size: int
) -> Iterator[Batch]:
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise ConfigError("no example to score the layers on: the list of texts is empty.")
    pairs = [(text,) if isinstance(text, str) else tuple(text) for text in texts]
    columns = [list(column) for column in zip(*pairs, strict=True)]
    encoded = tokenizer(*columns, truncation=True, max_length=max_length)
    rows = encoded["input_ids"]
    lengths = np.array([len(row) for row in rows])
    segments = encoded.get("token_type_ids") if len(columns) == 2 else None
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)  # masked
    store = TokenStore(
        ids=np.concatenate([np.asarray(row, dtype=np.int32) for row in rows]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        segments=None if segments is None else np.concatenate(segments).astype(np.uint8),
        labels=np.zeros(len(rows), dtype=np.int64),
        truncated=0,
        pad_id=pad,
        max_length=max_length,
    )
    for indices in sorted_batches(lengths, batch_size):
        yield store.batch(indices)


def _from_mapping(batch: Mapping[str, Any], needs_labels: bool) -> Batch:
    if not isinstance(batch, Mapping) or "input_ids" not in batch:
        raise ConfigError(
            f"score_layers needs dictionaries with input_ids and got {type(batch).__name__}: "
            "use a DataLoader with a collator of transformers, or give (tokenizer, texts)."
        )
    ids = torch.as_tensor(batch["input_ids"])
    mask = torch.as_tensor(batch.get("attention_mask", torch.ones_like(ids)))
    if not mask[:, 0].all():
        raise ConfigError("the batches are padded on the left: set tokenizer.padding_side = 'right'.")
    labels = batch.get("labels")
    if needs_labels and labels is None:
        raise ConfigError("scorer=gradient_norm needs `labels` in every batch.")
    return Batch(
        input_ids=ids,
        attention_mask=mask,
        labels=torch.zeros(len(ids), dtype=torch.int64) if labels is None else torch.as_tensor(labels),
        segment_ids=batch.get("token_type_ids"),
        indices=np.arange(len(ids)),
    )
