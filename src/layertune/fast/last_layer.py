"""The last layer, run for the representative token alone: its query, attention and feed-forward network.

A classification head reads one token of the last layer. The other tokens matter there only as keys and
values, so nothing else of them is computed, and the result is exact. Where keys and values are plain linear
maps, their matrices need not be applied to every token either: by (W h)·q = h·(Wᵀ q) the key's is applied
to the one query, and by Σ a W h = W Σ a h the value's to one weighted mean of the states.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from layertune.models.backbone import Backbone


def why_not_one_token(backbone: Backbone) -> str | None:
    """Say why the last layer cannot run for one token; None where it can."""
    model_type, known = backbone.model.config.model_type, backbone.architecture
    if known.last_layer is None or known.sites is None:
        return f"a {model_type} layer cannot be run for one of its tokens"
    if backbone.representative_token != known.token:
        return f"a {model_type} model is to be read at its {backbone.representative_token} token"
    bypassed = [backbone.layers[-1]]  # it, its attention, and what lies between
    for name in known.sites.attention.split("."):
        bypassed.append(bypassed[-1].get_submodule(name))
    if any(module._forward_hooks or module._forward_pre_hooks for module in bypassed):
        return "something is hooked to the last layer's attention"
    config = backbone.model.config
    if getattr(config, "reorder_and_upcast_attn", False) or getattr(config, "is_decoder", False):
        return "its attention is not the plain one of its architecture"
    return None


class OneToken(nn.Module):
    """Takes the place of the last block: hands its input on, and keeps the block's result for one token per
    row.

    Args:
        backbone: the model; its last block is run.
        mask: [B, T], 1 on real tokens; padding is on the right.
    """

    def __init__(self, backbone: Backbone, mask: Tensor) -> None:
        super().__init__()
        self._block = (backbone.layers[-1],)  # in a tuple: not registered here
        self._layer = _LAYERS[backbone.architecture.last_layer or ""]
        self._as_tuple = backbone.architecture.tuples
        position = (
            mask.sum(1) - 1 if backbone.representative_token == "last" else torch.zeros_like(mask[:, 0])
        )
        self._where = _Where(mask.bool(), torch.arange(len(mask), device=mask.device), position)
        self._result: Tensor | None = None

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor]:
        """Run the block for one token per row; return the input."""
        token = hidden_states[self._where.rows, self._where.position].unsqueeze(1)  # [B, 1, H]
        self._result = self._layer(self._block[0], hidden_states, token, self._where, args, kwargs)
        return (hidden_states,) if self._as_tuple else hidden_states

    def vector(self, norm: nn.Module | None) -> Tensor:
        """Return the block's result, [B, H], after the final norm where one is given."""
        assert self._result is not None
        return (self._result if norm is None else norm(self._result)).squeeze(1)


@dataclass(frozen=True)
class _Where:
    """Real tokens [B, T], row numbers [B], the representative token of each row [B]."""

    real: Tensor
    rows: Tensor
    position: Tensor

    def of(self, values: Tensor) -> Tensor:
        """Pick the token's entry: [1 or B, T, ...] -> [B, 1, ...]."""
        return values.expand(len(self.rows), *values.shape[1:])[self.rows, self.position].unsqueeze(1)


def _bert(block: Any, states: Tensor, token: Tensor, where: _Where, args: Any, kwargs: Any) -> Tensor:
    attention = block.attention.self
    head_size, dropout = attention.attention_head_size, _rate(attention, attention.dropout.p)
    query, allowed = attention.query(token), where.real
    context = _attend(
        query, attention.key, attention.value, states, head_size, allowed, attention.scaling, dropout
    )
    return block.feed_forward_chunk(block.attention.output(context, token))


def _mpnet(block: Any, states: Tensor, token: Tensor, where: _Where, args: Any, kwargs: Any) -> Tensor:
    attention = block.attention.attn
    head_size, dropout = attention.attention_head_size, _rate(attention, attention.dropout.p)
    position_bias = args[1] if len(args) > 1 else kwargs["position_bias"]  # [B, heads, T, T]
    bias = where.of(position_bias.transpose(1, 2)).transpose(1, 2)  # [B, heads, 1, T]
    context = _attend(
        attention.q(token),
        attention.k,
        attention.v,
        states,
        head_size,
        where.real,
        1 / math.sqrt(head_size),
        dropout,
        bias,
    )
    attended = block.attention.LayerNorm(block.attention.dropout(attention.o(context)) + token)
    return block.output(block.intermediate(attended), attended)


def _gpt2(block: Any, states: Tensor, token: Tensor, where: _Where, args: Any, kwargs: Any) -> Tensor:
    attention = block.attn
    query, key, value = attention.c_attn(block.ln_1(states)).split(attention.split_size, dim=2)
    dropout = _rate(attention, attention.attn_dropout.p)
    context = _attention(
        where.of(query), key, value, attention.head_dim, where.real, attention.scaling, dropout
    )
    token = token + attention.resid_dropout(attention.c_proj(context))
    return token + block.mlp(block.ln_2(token))


def _llama(block: Any, states: Tensor, token: Tensor, where: _Where, args: Any, kwargs: Any) -> Tensor:
    normed = block.input_layernorm(states)
    context = _rotated(block.self_attn, normed, where, kwargs["position_embeddings"], where.real)
    token = token + block.self_attn.o_proj(context)
    return token + block.mlp(block.post_attention_layernorm(token))


def _gemma2(block: Any, states: Tensor, token: Tensor, where: _Where, args: Any, kwargs: Any) -> Tensor:
    attention, allowed = block.self_attn, where.real
    if attention.sliding_window is not None:
        distance = where.position[:, None] - torch.arange(states.shape[1], device=states.device)
        allowed = allowed & (distance < attention.sliding_window)
    context = _rotated(
        attention, block.input_layernorm(states), where, kwargs["position_embeddings"], allowed
    )
    token = token + block.post_attention_layernorm(attention.o_proj(context))
    inner = block.mlp(block.pre_feedforward_layernorm(token))
    return token + block.post_feedforward_layernorm(inner)


_LAYERS: dict[str, Callable[..., Tensor]] = {
    "bert": _bert,
    "mpnet": _mpnet,
    "gpt2": _gpt2,
    "llama": _llama,
    "gemma2": _gemma2,
}


def _rotated(
    attention: Any, states: Tensor, where: _Where, rotation: tuple[Tensor, Tensor], allowed: Tensor
) -> Tensor:
    """Attention with rotary positions: [B, T, H] -> [B, 1, heads · head size]."""
    cos, sin = rotation  # [1 or B, T, head size]
    size = attention.head_dim
    query = _turned(attention.q_proj(where.of(states)), where.of(cos), where.of(sin), size)
    key = _turned(attention.k_proj(states), cos, sin, size)
    softcap = getattr(attention, "attn_logit_softcapping", None)
    dropout = _rate(attention, attention.attention_dropout)
    value = attention.v_proj(states)
    return _attention(query, key, value, size, allowed, attention.scaling, dropout, softcap=softcap)


def _turned(projected: Tensor, cos: Tensor, sin: Tensor, head_size: int) -> Tensor:
    """Rotate the halves of each head by their position (RoPE): [B, T, heads · head size], same shape."""
    heads = projected.unflatten(-1, (-1, head_size))
    first, second = heads.chunk(2, dim=-1)
    turned = heads * cos[:, :, None] + torch.cat([-second, first], dim=-1) * sin[:, :, None]
    return turned.flatten(2)


def _rate(module: nn.Module, dropout: float) -> float:
    return dropout if module.training else 0.0


def _attend(
    query: Tensor,
    to_key: nn.Module,
    to_value: nn.Module,
    states: Tensor,
    head_size: int,
    allowed: Tensor,
    scaling: float,
    dropout: float,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention of one query per row over states [B, T, H]: [B, 1, heads · head size]."""
    if not (_is_plain(to_key) and _is_plain(to_value)):
        key, value = to_key(states), to_value(states)
        return _attention(query, key, value, head_size, allowed, scaling, dropout, bias)
    per_head = query.unflatten(-1, (-1, head_size)).transpose(1, 2)  # [B, heads, 1, size]
    key_rows = to_key.weight.unflatten(0, (-1, head_size))  # [heads, size, H]
    sought = torch.einsum("bhqd,hde->bhqe", per_head, key_rows)  # [B, heads, 1, H]
    offset = (per_head * to_key.bias.view(1, -1, 1, head_size)).sum(-1, keepdim=True)
    found = torch.bmm(sought.squeeze(2), states.transpose(1, 2)).unsqueeze(2)  # no copy of states per head
    logits = (found + offset) * scaling  # [B, heads, 1, T]
    weights = _weights(logits if bias is None else logits + bias, allowed, dropout, states.dtype)
    seen = torch.bmm(weights.squeeze(2), states).unsqueeze(2)  # [B, heads, 1, H]
    value_rows = to_value.weight.unflatten(0, (-1, head_size))
    context = torch.einsum("bhqe,hde->bhqd", seen, value_rows)
    context = context + weights.sum(-1, keepdim=True) * to_value.bias.view(1, -1, 1, head_size)
    return context.transpose(1, 2).flatten(2)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a linear map with a bias, which no adapter wraps and no hook acts on."""
    hooked = module._forward_hooks or module._forward_pre_hooks
    return type(module) is nn.Linear and module.bias is not None and not hooked


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    head_size: int,
    allowed: Tensor,
    scaling: float,
    dropout: float,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention of one query per row, [B, 1, ·], over keys and values [B, T, ·]: [B, 1, heads · size]."""
    q, k, v = (t.unflatten(-1, (-1, head_size)).transpose(1, 2) for t in (query, key, value))
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    logits = q @ k.transpose(2, 3) * scaling
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
        logits = logits.float()  # as transformers takes Gemma-2's softmax, whatever the model's precision
    weights = _weights(logits if bias is None else logits + bias, allowed, dropout, v.dtype)
    return (weights @ v).transpose(1, 2).flatten(2)


def _weights(logits: Tensor, allowed: Tensor, dropout: float, dtype: torch.dtype) -> Tensor:
    """Softmax over the allowed tokens, [B, heads, 1, T], at least in fp32."""
    logits = logits.masked_fill(~allowed[:, None, None], float("-inf"))
    precise = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return F.dropout(precise.softmax(-1).to(dtype), dropout, training=dropout > 0)
