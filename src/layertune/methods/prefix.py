"""Prefix-tuning (Li & Liang 2021; Tables 1-4): learned keys and values in front of every attention.

The parameters are `peft`'s prefix encoder. What `peft` cannot express is that the real tokens keep their
positions: it hands the prefix over as a cache of past tokens, and they move up by its length. Here a hook on
each attention puts the prefix before the keys and values, and ones before the attention mask. The model never
hears of it: its positions, its own cache, its beams and its left padding are what they are without a prefix,
in training as in decoding, and a recomputed block (activation checkpointing) finds the same prefix again.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layertune.config import RunConfig
from layertune.config.schema import Count
from layertune.errors import ConfigError
from layertune.methods.added import AddedParameters
from layertune.models.architectures import ARCHITECTURES, Sites

if TYPE_CHECKING:
    from layertune.models import Backbone

MLP_WIDTH = 512  # of the re-parameterisation, as in the source
ATTENTION = ("eager", "sdpa")  # implementations whose mask can be widened


class PrefixTuning(AddedParameters):
    """P learned keys and values per layer.

    No position is spent on a prefix: an input may be as long as the model's positions on every architecture.
    Architectures whose attention scores a key by its distance only (DeBERTa, MPNet) have no place for a key
    without a position and are refused.

    Choice: [prefix] drawn as `peft` draws it, from N(0, 1); no dropout on the prefix. Gemma-2's sliding
    windows slide over real tokens: every token sees the whole prefix.
    """

    def __init__(self, run: RunConfig) -> None:
        super().__init__(run)
        self.length: int = self.value("length", Count)
        if run.model.attention not in (None, *ATTENTION):
            raise ConfigError(_needs_plain_attention(str(run.model.attention)))

    def check_architecture(self, model_type: str) -> Sites:
        """Return the sites of an architecture; refuse those that take no keys from elsewhere."""
        sites = super().check_architecture(model_type)
        if not sites.takes_cache:
            known = ((name, architecture.sites) for name, architecture in ARCHITECTURES.items())
            able = ", ".join(name for name, other in known if other is not None and other.takes_cache)
            raise ConfigError(
                f"method={self.spec.name} does not work on {model_type}: its attention scores keys by their "
                f"distance and takes none that stand at no position. It works on {able}."
            )
        return sites

    def insert(self, backbone: Backbone, sites: Sites) -> dict[str, Any]:
        """Put one encoder behind all layers: it is a child of every attention, `prefix`."""
        from peft import PrefixEncoder, PrefixTuningConfig

        config = backbone.model.config
        if config._attn_implementation not in ATTENTION:
            raise ConfigError(_needs_plain_attention(config._attn_implementation))
        heads, width = key_heads(config)
        encoder = PrefixEncoder(
            PrefixTuningConfig(
                num_virtual_tokens=self.length,
                token_dim=heads * width,
                num_transformer_submodules=1,
                num_attention_heads=heads,
                num_layers=backbone.num_layers,
                prefix_projection=self.options["mlp"],
                encoder_hidden_size=MLP_WIDTH,
            )
        )
        for layer, (_, attention) in enumerate(backbone.blocks_at(sites.attention), start=1):
            attention.add_module("prefix", encoder)
            attention.register_forward_pre_hook(PrefixHook(layer, heads, width, attention), with_kwargs=True)
        return {"kept_parameters": self.length * 2 * backbone.num_layers * heads * width}


def _needs_plain_attention(given: str) -> str:
    return (
        f"method=prefix widens the attention mask, which model.attention={given} does not show: "
        f"set model.attention to {' or '.join(ATTENTION)}."
    )


def key_heads(config: Any) -> tuple[int, int]:
    """Return the number of key and value heads, and the width of one (grouped-query attention has fewer)."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return heads, width


def prefix_of(encoder: nn.Module, layer: int, heads: int, width: int) -> Tensor:
    """Return the keys and values of one layer (1-based), [2, heads, P, width].

    The columns are those that `peft` would cut from the encoder's output for this layer.
    """
    size = 2 * heads * width
    columns = slice((layer - 1) * size, layer * size)
    table = encoder.embedding.weight
    if encoder.prefix_projection:
        first, tanh, last = encoder.transform
        flat = F.linear(tanh(first(table)), last.weight[columns], last.bias[columns])
    else:
        flat = table[:, columns]
    return flat.unflatten(-1, (2, heads, width)).permute(1, 2, 0, 3)


class PrefixHook:
    """Called before an attention: hands it the prefix as a cache, and a mask that shows it.

    Args:
        layer: its number (1-based).
        heads, width: of keys and values.
        attention: whose forward names its arguments.
    """

    def __init__(self, layer: int, heads: int, width: int, attention: nn.Module) -> None:
        self.layer, self.heads, self.width = layer, heads, width
        self.names = tuple(inspect.signature(attention.forward).parameters)

    def __call__(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[()], dict[str, Any]]:
        """Return the arguments of the attention, all by name."""
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        prefix = prefix_of(attention.get_submodule("prefix"), self.layer, self.heads, self.width)
        cache, queries = given.get("past_key_values"), given["hidden_states"].shape[1]
        seen = 0 if cache is None else cache.get_seq_length(attention.layer_idx)
        mask = given.get("attention_mask")
        if mask is None and attention.is_causal and queries > 1:  # left out where the library sees no padding
            ones = torch.ones(queries, seen + queries, dtype=torch.bool, device=prefix.device)
            mask = ones.tril(seen)[None, None]
        if mask is not None:  # [B, 1, queries, keys]: boolean, or what is added to the scores
            shown = True if mask.dtype == torch.bool else 0.0
            mask = F.pad(mask, (prefix.shape[2], 0), value=shown)
        return (), {**given, "attention_mask": mask, "past_key_values": PrefixedCache(prefix, cache)}


class PrefixedCache:
    """The cache that an attention sees: the prefix before all keys and values, and behind it the real cache.

    The real cache, if there is one, never holds the prefix: reordering it (beams) and asking its length stay
    right.
    """

    def __init__(self, prefix: Tensor, cache: Any) -> None:
        self.prefix, self.cache = prefix, cache

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return all keys and all values, [B, heads, P + tokens, width]."""
        if self.cache is not None:
            keys, values = self.cache.update(keys, values, *args, **kwargs)
        key, value = self.prefix.to(keys.dtype).unsqueeze(1).expand(-1, keys.shape[0], -1, -1, -1)
        return torch.cat([key, keys], dim=2), torch.cat([value, values], dim=2)
