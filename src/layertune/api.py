"""Layer selection for your own training script: score, select, freeze (§3), on any model of transformers.

    scores = score_layers(model, (tokenizer, texts))
    layers = select_layers(scores, k=3, strategy="low_k")
    freeze_all_but(model, layers)          # then train as usual; the optimiser may be given all parameters

The scores are computed by the same code as those of the paper's tables.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from layertune.config.identity import GRADIENT_SCORERS, TOKEN_SCORERS
from layertune.config.names import resolve_name
from layertune.errors import ConfigError, ModelError
from layertune.models import Backbone, Output, TaskModel
from layertune.models.architectures import find_layers, refuse_other_than_one_stack
from layertune.models.limits import num_embeddings, refuse_what_does_not_fit, usable_positions
from layertune.models.loading import known_tokens, refuse_half_a_tokenizer
from layertune.models.probe import probe
from layertune.scoring import SCORERS, LayerScores
from layertune.selection import SELECTORS
from layertune.tasks import Batch
from layertune.tasks.given import batch_of_mapping, batches_of_store, encode_texts

STRATEGY_RULES = {  # the paper's names for the rules in SELECTORS
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
    segment_ids: Literal["standard", "zeros"] = "standard",
) -> LayerScores:
    """Score the layers of a pretrained model on the texts it will be fine-tuned on (§3.1).

    Args:
        model: a model of transformers, with or without a task head; it is left as it was.
        data: `(tokenizer, texts)`, a text being a string or a pair (tuple) of strings, read as a run reads
            its rows; or batches (a DataLoader) of dictionaries with `input_ids` and `attention_mask` [B, T],
            padded on the right.
        scorer: a name in SCORERS; gradient_norm and fisher need batches with `labels` and the head the model
            has, spectrum and weight_norm look at no text.
        representative: the token that stands for a text: the first or the last; `auto` takes the last for
            causal models (asked of the model itself) and for those that end in [CLS], else the first.
        last_layer: decoders: the state of the last layer after the final norm (`library`) or before (`raw`).
        tokens: which tokens io_cosine, block_influence, angular and feature_variance read; None is each
            scorer's own default.
        max_length: longest text in tokens, where texts are given; never more than the model's positions.
        batch_size: texts per forward pass, where texts are given.
        segment_ids: pairs, where texts are given: the tokenizer's own, or `zeros`, the default of runs.

    Raises:
        ModelError: the model is not one of transformers, its layers cannot be found, or do not each leave
            one state [B, T, H] behind.
        ConfigError: unknown scorer, no data, or batches that do not fit.
    """
    score = resolve_name(scorer, SCORERS, "scorer")
    options = {} if tokens is None else {"tokens": tokens}
    if tokens is not None and scorer not in TOKEN_SCORERS:
        raise ConfigError(f"tokens={tokens} has no meaning for scorer={scorer}.")
    needs_labels = scorer in GRADIENT_SCORERS
    wrapped = _wrap(model, representative, last_layer)
    base = wrapped.backbone.model
    if isinstance(data, tuple) and len(data) == 2 and callable(data[0]):
        if needs_labels:
            raise ConfigError(f"scorer={scorer} needs labels: give batches, not (tokenizer, texts).")
        store = encode_texts(*data, max_length, usable_positions(base), segment_ids)
        refuse_what_does_not_fit(base, int(store.ids.max()), int(store.lengths.max()))
        refuse_half_a_tokenizer(type(model).__name__, data[0], known_tokens(base.config))
        batches = batches_of_store(store, batch_size, num_embeddings(base), _padding(base))
    else:
        batches = _own_batches(base, data, scorer if needs_labels else None)
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
    rules = {name: SELECTORS[rule] for name, rule in STRATEGY_RULES.items()} | SELECTORS
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
    assert isinstance(blocks, nn.ModuleList)
    wrong = [layer for layer in layers if not 1 <= layer <= len(blocks)]
    if wrong:
        raise ConfigError(f"the model has no layer {wrong[0]}: layers are numbered from 1 to {len(blocks)}.")
    chosen: list[nn.Module] = [blocks[layer - 1] for layer in layers]
    for name in also:
        found = [module for path, module in model.named_modules() if f".{path}".endswith(f".{name}")]
        if not found:
            raise ConfigError(f"also={name}: the model has no module of that name.")
        chosen += found
    inside = set(base.parameters())
    head = [parameter for parameter in model.parameters() if train_head and parameter not in inside]
    trained = {*head, *(parameter for module in chosen for parameter in module.parameters())}
    if not trained:
        raise ConfigError(
            "nothing is left to train: name a layer, or train_head=True for a model with a head."
        )
    for name, parameter in model.named_parameters():
        if parameter in trained and (parameter.is_meta or not parameter.is_floating_point()):
            kept = "kept elsewhere (offloaded)" if parameter.is_meta else f"{parameter.dtype} (quantised)"
            raise ConfigError(
                f"{name} cannot be trained, it is {kept}: load the model in fp32 or bf16 on one device, or "
                "train adapters on it."
            )
    for parameter in model.parameters():
        parameter.requires_grad_(parameter in trained)
    return sum(parameter.numel() for parameter in trained)


class _Wrapped(TaskModel):
    """The user's model in the shape that the scorers read; nothing is copied."""

    def __init__(self, whole: nn.Module, backbone: Backbone) -> None:
        super().__init__(backbone, nn.Identity(), "external")
        self.whole = whole

    def forward(self, batch: Batch) -> Any:
        """Return the output of the user's model; its `loss` is a number.

        Raises:
            ModelError: it has none.
        """
        inputs = self.backbone.inputs(batch)
        output = None if self.whole is self.backbone.model else self.whole(**inputs, labels=batch.labels)
        loss = output[0] if isinstance(output, tuple) else getattr(output, "loss", None)
        if not isinstance(loss, torch.Tensor) or loss.ndim > 0:
            raise ModelError(
                f"a score of gradients needs the loss of a head, and {type(self.whole).__name__} has none: "
                "load the model with one (AutoModelForSequenceClassification, …)."
            )
        return Output(loss, loss)

    def with_fresh_head(self, seed: int) -> TaskModel:
        return self


def _wrap(model: nn.Module, representative: str, last_layer: Literal["library", "raw"]) -> _Wrapped:
    for name, value, allowed in (
        ("representative", representative, ("auto", "first", "last")),
        ("last_layer", last_layer, ("library", "raw")),
    ):
        if value not in allowed:
            raise ConfigError(f"{name}={value} is not allowed: {' or '.join(allowed)}.")
    backbone = Backbone(_base_of(model), "first", last_layer)
    is_causal = probe(backbone)
    if representative == "auto":
        representative = "last" if is_causal else backbone.architecture.token
    backbone.representative_token = representative
    return _Wrapped(model, backbone)


def _base_of(model: nn.Module) -> nn.Module:
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"layertune works on models of transformers and got a {type(model).__name__}: "
            "unwrap it first (peft: before get_peft_model; DistributedDataParallel: model.module)."
        )
    base: nn.Module = model.base_model
    refuse_other_than_one_stack(base.config, type(model).__name__)
    return base


def _own_batches(base: nn.Module, data: Any, for_labels: str | None) -> Iterator[Batch]:
    if not isinstance(data, Iterable):
        raise ConfigError(f"score_layers needs (tokenizer, texts) or batches and got {type(data).__name__}.")
    accepted, known = inspect.signature(base.forward).parameters, num_embeddings(base)
    for given in data:
        batch = batch_of_mapping(given, accepted, known, _padding(base))
        if for_labels and given.get("labels") is None:
            raise ConfigError(f"scorer={for_labels} needs `labels` in every batch.")
        refuse_what_does_not_fit(base, int(batch.input_ids.max()), batch.input_ids.shape[1])
        yield batch


def _padding(base: nn.Module) -> int:
    """Return a token id that a model knows, for positions that are masked: its own where it names one."""
    own, known = getattr(base.config, "pad_token_id", None), num_embeddings(base)
    return own if own is not None and (known is None or 0 <= own < known) else 0
