"""The one table of what is known per architecture: what its modules do not say of themselves.

An architecture that is not listed is read by its structure and by what it does (`layertune.models.probe`); it
can be scored and trained layer by layer, while what needs to know the inside of a block is refused in a
sentence. To add one: a line in `ARCHITECTURES`, by the `model_type` of its configuration.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from layertune.config import ModelSpec
from layertune.config.weights import weights_folder
from layertune.errors import ConfigError, ModelError


@dataclass(frozen=True)
class Sites:
    """Dotted paths inside one block, to the modules that methods act on.

    Query, key and value are three linear maps, or one fused map whose output holds all three: in thirds
    (GPT-2), or query, key and value of each head in turn (DeBERTa v1).

    Attributes:
        query, key, value: linear maps; one and the same where they are fused.
        attention: the module that takes the attention mask and a cache of keys and values.
        attention_out: the linear map behind the heads.
        attention_end, ffn_end: the last modules before a residual addition, or before the norm that comes
            first: the output projection, or the dropout behind it.
        ffn_in: the linear maps into the inner activation of the feed-forward network (two where it is gated).
        ffn_out: the linear map whose input is that activation.
        fused: how one map holds query, key and value.
        takes_cache: whether keys and values may come from elsewhere than the tokens.
    """

    query: str
    key: str
    value: str
    attention: str
    attention_out: str
    attention_end: str
    ffn_in: tuple[str, ...]
    ffn_out: str
    ffn_end: str
    fused: Literal["thirds", "per_head"] | None = None
    takes_cache: bool = True


@dataclass(frozen=True)
class Architecture:
    """What is known of the models of one `model_type`; the defaults are those of an unknown one.

    Attributes:
        layers: dotted path of the list of blocks; None = found by structure.
        final_norm: the norm behind the last block; None = there is none, as in encoders.
        token: stands for a text where a model is not causal: the first, or the last ([CLS] at the end).
        time_first: the blocks hold [T, B, H].
        padded: the blocks hold more tokens, behind those of the batch (up to a window of the attention).
        tuples: the blocks return a tuple; the states come first.
        eager: no scaled-dot-product attention in some or all releases of transformers 5.
        plain: the blocks take the states of all tokens and return them, and nothing else, so that a forward
            pass can start at any of them.
        last_layer: how the last block is run for one token (`layertune.fast.last_layer`).
        sees: which real tokens a token attends to in every layer, where it does so by scaled dot products:
            all, or those up to its own; None = the model itself says so.
        segments: it reads segment ids, although its configuration does not say how many there are.
        sites: where the inside of a block is.
        named: what the hub ids of its models contain, by custom.
    """

    layers: str | None = None
    final_norm: str | None = None
    token: Literal["first", "last"] = "first"
    time_first: bool = False
    padded: bool = False
    tuples: bool = False
    eager: bool = False
    plain: bool = False
    segments: bool = False
    sees: Literal["all", "before"] | None = None
    last_layer: Literal["bert", "mpnet", "gpt2", "llama", "gemma2"] | None = None
    sites: Sites | None = None
    named: tuple[str, ...] = ()


_BERT = Sites(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention="attention.self",
    attention_out="attention.output.dense",
    attention_end="attention.output.dropout",
    ffn_in=("intermediate.dense",),
    ffn_out="output.dense",
    ffn_end="output.dropout",
)
_DEBERTA_V2 = replace(
    _BERT,
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
    takes_cache=False,
)
_DEBERTA = replace(
    _BERT,
    query="attention.self.in_proj",
    key="attention.self.in_proj",
    value="attention.self.in_proj",
    fused="per_head",
    takes_cache=False,
)
_MPNET = replace(
    _BERT,
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention="attention.attn",
    attention_out="attention.attn.o",
    attention_end="attention.dropout",
    takes_cache=False,
)
_GPT2 = Sites(
    query="attn.c_attn",
    key="attn.c_attn",
    value="attn.c_attn",
    attention="attn",
    attention_out="attn.c_proj",
    attention_end="attn.resid_dropout",
    ffn_in=("mlp.c_fc",),
    ffn_out="mlp.c_proj",
    ffn_end="mlp.dropout",
    fused="thirds",
)
_LLAMA = Sites(
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention="self_attn",
    attention_out="self_attn.o_proj",
    attention_end="self_attn.o_proj",
    ffn_in=("mlp.gate_proj", "mlp.up_proj"),
    ffn_out="mlp.down_proj",
    ffn_end="mlp.down_proj",
)

_ENCODER = Architecture(layers="encoder.layer", plain=True, last_layer="bert", sites=_BERT, sees="all")
_DECODER = Architecture(
    layers="layers",
    final_norm="norm",
    token="last",
    plain=True,
    last_layer="llama",
    sites=_LLAMA,
    sees="before",
)
ARCHITECTURES: dict[str, Architecture] = {
    "bert": _ENCODER,
    "roberta": _ENCODER,
    "electra": _ENCODER,
    "mpnet": replace(_ENCODER, tuples=True, eager=True, last_layer="mpnet", sites=_MPNET, named=("mpnet",)),
    "deberta": Architecture(layers="encoder.layer", eager=True, sites=_DEBERTA, named=("deberta",)),
    "deberta-v2": Architecture(
        layers="encoder.layer", eager=True, sites=_DEBERTA_V2, named=("deberta-v2", "deberta-v3")
    ),
    "gpt2": replace(_DECODER, layers="h", final_norm="ln_f", last_layer="gpt2", sites=_GPT2),
    "gemma2": replace(_DECODER, eager=True, last_layer="gemma2"),
    "llama": _DECODER,
    "longformer": Architecture(padded=True),
    "big_bird": Architecture(padded=True),
    "xlnet": Architecture(token="last", time_first=True, segments=True),  # its [CLS] is the last token
}


def architecture_of(model_type: str) -> Architecture:
    """Return what is known of an architecture: nothing where it is not listed."""
    return ARCHITECTURES.get(model_type, Architecture())


def sites_of(model_type: str, method: str) -> Sites:
    """Return the sites of an architecture.

    Raises:
        ConfigError: they are not known.
    """
    sites = architecture_of(model_type).sites
    if sites is None:
        known = sorted(name for name, architecture in ARCHITECTURES.items() if architecture.sites)
        raise ConfigError(
            f"method={method} does not know where {model_type} keeps its projections: it works with "
            f"{', '.join(known)}; another needs a line in layertune.models.architectures."
        )
    return sites


def known_type(model: ModelSpec) -> str | None:
    """Return the `model_type` of a model as far as it can be told without the hub or the weights."""
    folder = weights_folder(model)
    if folder is not None:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model.random_config is not None:
        return model.random_config.get("model_type")
    return type_named_by(model.source)


def type_named_by(hub_id: str) -> str | None:
    """Return the `model_type` that a hub id names by custom; the longest name that fits decides."""
    fitting = [
        (len(name), model_type)
        for model_type, architecture in ARCHITECTURES.items()
        for name in architecture.named
        if name in hub_id.lower()
    ]
    return max(fitting, default=(0, None))[1]


def refuse_other_than_one_stack(config: Any, name: str) -> None:
    """Refuse the configuration of a model that is not one stack of layers over the tokens of a text.

    Raises:
        ModelError: it is an encoder with a decoder, or a composite of text with images or sound.
    """
    if getattr(config, "is_encoder_decoder", False):
        why = "an encoder and a decoder"
    elif getattr(config, "num_hidden_layers", None) is None or getattr(config, "hidden_size", None) is None:
        why = "several models, or has layers of several widths"
    else:
        return
    raise ModelError(
        f"{name} is not a single stack of layers ({config.model_type} is {why}): BERT's and GPT's kind are."
    )


def find_layers(model: nn.Module, path: str | None = None) -> str:
    """Return the dotted path of the list of Transformer blocks inside a headless model.

    transformers has no accessor for it: it is the one list with as many modules as the model has layers, or
    the one of the table where there are several.

    Args:
        model: a model of transformers without its task head; `model.config` says how many layers it has.
        path: the path to use instead of finding it (`model.layers` in the configuration).

    Raises:
        ModelError: no list, or more than one, has as many modules as the model has layers.
    """
    num_layers = model.config.num_hidden_layers
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == num_layers
    ]
    found = [name for name in found if not any(name.startswith(f"{other}.") for other in found)]  # experts
    path = path or architecture_of(model.config.model_type).layers
    if path is None and len(found) == 1:
        path = found[0]
    if path is None:
        raise ModelError(
            f"cannot tell where {type(model).__name__} holds its {num_layers} layers: set model.layers to "
            + (
                f"one of {', '.join(found)}."
                if found
                else "the dotted path of the list (layers that share weights, as ALBERT's, are no list)."
            )
        )
    if path not in found:
        raise ModelError(
            f"{type(model).__name__} holds no list of {num_layers} layers at model.layers={path}; "
            + (f"such a list is at {' and at '.join(found)}." if found else "no list has that length.")
        )
    return path
