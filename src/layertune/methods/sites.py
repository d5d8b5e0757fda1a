"""Where each architecture keeps the modules that PEFT methods act on: paths in one block, by `model_type`.

Query, key and value are three linear maps, or one fused map whose output holds all three: in thirds (GPT-2),
or query, key and value of each head in turn (DeBERTa v1).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from layertune.config import ConfigError, ModelSpec
from layertune.config.weights import weights_folder
from layertune.models import Backbone


@dataclass(frozen=True)
class Sites:
    """Dotted paths inside one block.

    Attributes:
        query, key, value: linear maps; one and the same where they are fused.
        attention: the module that takes the attention mask and a cache of keys and values.
        attention_end, ffn_end: the last modules before a residual addition, or before the norm that comes
            first: the output projection, or the dropout behind it.
        ffn_out: the linear map whose input is the inner activation of the feed-forward network.
        fused: how one map holds query, key and value.
        takes_cache: whether keys and values may come from elsewhere than the tokens.
    """

    query: str
    key: str
    value: str
    attention: str
    attention_end: str
    ffn_out: str
    ffn_end: str
    fused: Literal["thirds", "per_head"] | None = None
    takes_cache: bool = True


BERT = Sites(
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention="attention.self",
    attention_end="attention.output.dropout",
    ffn_out="output.dense",
    ffn_end="output.dropout",
)
LLAMA = Sites(
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    attention="self_attn",
    attention_end="self_attn.o_proj",
    ffn_out="mlp.down_proj",
    ffn_end="mlp.down_proj",
)
SITES: dict[str, Sites] = {
    "bert": BERT,
    "roberta": BERT,
    "electra": BERT,
    "deberta": replace(
        BERT,
        query="attention.self.in_proj",
        key="attention.self.in_proj",
        value="attention.self.in_proj",
        fused="per_head",
        takes_cache=False,
    ),
    "deberta-v2": replace(
        BERT,
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
        takes_cache=False,
    ),
    "mpnet": replace(
        BERT,
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention="attention.attn",
        attention_end="attention.dropout",
        takes_cache=False,
    ),
    "gpt2": Sites(
        query="attn.c_attn",
        key="attn.c_attn",
        value="attn.c_attn",
        attention="attn",
        attention_end="attn.resid_dropout",
        ffn_out="mlp.c_proj",
        ffn_end="mlp.dropout",
        fused="thirds",
    ),
    "gemma2": LLAMA,
    "llama": LLAMA,
}


def sites_of(model_type: str, method: str) -> Sites:
    """Return the sites of an architecture.

    Raises:
        ConfigError: they are not known.
    """
    if model_type not in SITES:
        raise ConfigError(
            f"method={method} does not know where {model_type} keeps its projections: it works with "
            f"{', '.join(sorted(SITES))}; another architecture needs a line in layertune.methods.sites."
        )
    return SITES[model_type]


def blocks_at(backbone: Backbone, path: str) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Yield every block of a backbone with its module at `path`, first to last."""
    for block in backbone.layers:
        yield block, block.get_submodule(path)


# By custom a hub id names its architecture; what it does not name is checked when the weights are there.
NAMED_BY_ID = {"deberta-v3": "deberta-v2", "deberta-v2": "deberta-v2", "deberta": "deberta", "mpnet": "mpnet"}


def known_type(model: ModelSpec) -> str | None:
    """Return the `model_type` of a model as far as it can be told without the hub or the weights."""
    folder = weights_folder(model)
    if folder is not None:
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if model.random_config is not None:
        return model.random_config.get("model_type")
    source = model.source.lower()
    return next((model_type for name, model_type in NAMED_BY_ID.items() if name in source), None)
