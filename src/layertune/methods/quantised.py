"""SlimFit's load balancing: what the backward pass needs is stored in few bits (`utils_ILS.py` of its code).

GELU input 4 bits, inputs of the attention products 8, softmax output 8 without sign, input of the second
linear map of the feed-forward network 8 while that map trains; a frozen LayerNorm keeps the tenth of its
normalised values that is largest. The forward pass is exact; gradients are slightly perturbed.

Choice: [SlimFit, `method.quantise=true`] attention is computed in steps, as in the source: a fused kernel has
no softmax output to store.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from layertune.methods.few_bits import SIGNED, UNSIGNED, Activation, FixedPoint, Product, Softmax, SparseNorm
from layertune.methods.sites import sites_of

if TYPE_CHECKING:
    from layertune.models import TaskModel

_PRODUCTS = {torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm}
_SOFTMAXES = {torch.softmax, F.softmax, Tensor.softmax}
_SAME_VALUES = {F.dropout, torch.dropout, Tensor.to, Tensor.type, Tensor.float}
_SAME_VALUES |= {Tensor.view, Tensor.reshape, Tensor.contiguous}


class InAttention(TorchFunctionMode):
    """While an attention module runs: its products and its softmax store what they need in few bits."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS:
            left, right = (*args, *kwargs.values())
            return Product.apply(left, right, _format_of(left), SIGNED)
        if func in _SOFTMAXES:
            return _softmax(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        result = func(*args, **kwargs)
        if func in _SAME_VALUES and getattr(args[0], "is_probability", False):
            result.is_probability = True
        return result


def _format_of(left: Tensor) -> FixedPoint:
    return UNSIGNED if getattr(left, "is_probability", False) else SIGNED


def _softmax(scores: Tensor, dim: int = -1, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    result = Softmax.apply(scores if dtype is None else scores.to(dtype), dim)
    result.is_probability = True
    return result


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Compute scaled dot-product attention in steps; [B, heads, T, size]."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = Product.apply(query, key.mT, SIGNED, SIGNED) * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    shares = F.dropout(Softmax.apply(scores, -1), dropout_p).to(value.dtype)
    return Product.apply(shares, value, UNSIGNED, SIGNED)


def quantise(model: TaskModel) -> None:
    """Let the modules of a backbone store what their backward pass needs in few bits; in place."""
    backbone = model.backbone
    sites = sites_of(backbone.model.config.model_type, "slimfit")
    for block in backbone.layers:
        _replace(block.get_submodule(sites.attention), _in_attention)
        _replace(block.get_submodule(sites.ffn_out), _linear)
        for module in list(block.modules()):
            if type(module).__module__ in ("transformers.activations", nn.GELU.__module__):
                _replace(module, _activation)
    for module in backbone.modules():
        if "LayerNorm" in type(module).__name__:
            _replace(module, _norm)


Forward = Callable[..., Any]


def _replace(module: nn.Module, wrap: Callable[[nn.Module, Forward], Forward]) -> None:
    """Give a module another forward pass where gradients are taken; elsewhere it keeps its own."""
    own = module.forward
    wrapped = wrap(module, own)
    module.forward = lambda *args, **kwargs: (wrapped if torch.is_grad_enabled() else own)(*args, **kwargs)


def _in_attention(module: nn.Module, own: Forward) -> Forward:
    def forward(*args: Any, **kwargs: Any) -> Any:
        with InAttention():
            return own(*args, **kwargs)

    return forward


def _activation(module: nn.Module, own: Forward) -> Forward:
    return lambda values: Activation.apply(values, own)


def _linear(module: nn.Module, own: Forward) -> Forward:
    is_transposed = isinstance(module, nn.Linear)  # GPT-2's maps hold [in, out]

    def forward(values: Tensor) -> Tensor:
        if not module.weight.requires_grad:
            return own(values)
        result = Product.apply(values, module.weight.T if is_transposed else module.weight, SIGNED, None)
        return result if module.bias is None else result + module.bias

    return forward


def _norm(module: nn.Module, own: Forward) -> Forward:
    epsilon = module.eps if isinstance(module, nn.LayerNorm) else module.variance_epsilon  # DeBERTa v1

    def forward(values: Tensor) -> Tensor:
        if module.weight.requires_grad:
            return own(values)
        return SparseNorm.apply(values, module.weight, module.bias, epsilon)

    return forward
