"""SlimFit's load balancing: what the backward pass needs is stored in few bits (`utils_ILS.py` of its code).

GELU input 4 bits, inputs of the attention products 8, softmax output 8 without sign, input of the second
linear map of the feed-forward network 8 while that map trains; a frozen LayerNorm keeps the tenth of its
normalised values that is largest. The forward pass is exact; gradients are slightly perturbed.

Choice: [SlimFit, `method.quantise=true`] attention is computed in steps, as in the source: a fused kernel has
no softmax output to store.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from layertune.models.architectures import sites_of

if TYPE_CHECKING:
    from layertune.models import TaskModel

KEPT_BY_FROZEN_NORM = 0.1  # share of the normalised values


@dataclass(frozen=True)
class FixedPoint:
    """Numbers of `integer` and `fraction` bits, and a sign: rounded to the nearest, clipped at both ends."""

    integer: int
    fraction: int
    signed: bool = True

    @property
    def bits(self) -> int:
        """Bits of one stored number."""
        return self.integer + self.fraction + self.signed

    def pack(self, values: Tensor) -> Tensor:
        """Return numbers as bytes; two to a byte where four bits are enough, [ceil(n / 2)]."""
        highest = 2 ** (self.integer + self.fraction) - 1
        lowest = -highest - 1 if self.signed else 0
        codes = (values.detach().float() * 2**self.fraction).round_().clamp_(lowest, highest)
        codes = (codes - lowest).to(torch.uint8)
        if self.bits > 4:
            return codes
        flat = F.pad(codes.flatten(), (0, codes.numel() % 2))
        return flat[::2] | (flat[1::2] << 4)

    def unpack(self, codes: Tensor, like: Meta) -> Tensor:
        """Return the stored numbers in their old shape and type."""
        if self.bits <= 4:
            codes = torch.stack([codes & 15, codes >> 4], dim=1).flatten()[: math.prod(like.shape)]
        lowest = -(2 ** (self.integer + self.fraction)) if self.signed else 0
        values = (codes.float() + lowest) / 2**self.fraction
        return values.view(like.shape).to(like.dtype)


@dataclass(frozen=True)
class Meta:
    """Shape and type of a tensor that is stored as something else."""

    shape: torch.Size
    dtype: torch.dtype


GELU_INPUT = FixedPoint(2, 1)
SIGNED = FixedPoint(3, 4)
UNSIGNED = FixedPoint(0, 8, signed=False)


class Activation(torch.autograd.Function):
    """An elementwise activation that stores its input in four bits."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply the function."""
        ctx.function, ctx.meta = function, Meta(values.shape, values.dtype)
        ctx.save_for_backward(GELU_INPUT.pack(values))
        return function(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Take its derivative at the stored input."""
        stored = GELU_INPUT.unpack(*ctx.saved_tensors, ctx.meta).requires_grad_()
        with torch.enable_grad():
            result = ctx.function(stored)
        return torch.autograd.grad(result, stored, gradient.to(result.dtype))[0], None


class Softmax(torch.autograd.Function):
    """A softmax that stores its output in eight bits."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, dim: int) -> Tensor:
        """Take the softmax along a dimension."""
        result = torch.softmax(scores, dim)
        ctx.dim, ctx.meta, ctx.dtype = dim, Meta(result.shape, result.dtype), scores.dtype
        ctx.save_for_backward(UNSIGNED.pack(result))
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Use the stored output."""
        stored = UNSIGNED.unpack(*ctx.saved_tensors, ctx.meta)
        weighted = gradient * stored
        return (weighted - stored * weighted.sum(ctx.dim, keepdim=True)).to(ctx.dtype), None


class Product(torch.autograd.Function):
    """A matrix product that stores its factors in given formats; None stores a factor as it is.

    A factor is stored only where the gradient of the other is asked for.
    """

    @staticmethod
    def forward(
        ctx: Any, left: Tensor, right: Tensor, of_left: FixedPoint | None, of_right: FixedPoint | None
    ) -> Tensor:
        """Multiply [.., n, m] by [.., m, p]."""
        ctx.formats = of_left, of_right
        ctx.metas = Meta(left.shape, left.dtype), Meta(right.shape, right.dtype)
        wanted = ctx.needs_input_grad[1], ctx.needs_input_grad[0]  # whose gradient reads this factor
        kept = [
            (factor if form is None else form.pack(factor)) if is_wanted else None
            for factor, form, is_wanted in zip((left, right), ctx.formats, wanted, strict=True)
        ]
        ctx.save_for_backward(*kept)
        return left @ right

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Multiply by the stored factors; broadcast dimensions are summed."""
        left, right = (
            stored if stored is None or form is None else form.unpack(stored, meta)
            for stored, form, meta in zip(ctx.saved_tensors, ctx.formats, ctx.metas, strict=True)
        )
        dtype, (of_left, of_right) = gradient.dtype, ctx.metas
        first = second = None
        if right is not None:
            first = (gradient @ right.to(dtype).mT).sum_to_size(of_left.shape).to(of_left.dtype)
        if left is not None and len(of_right.shape) == 2:  # a linear map: one product over all tokens
            second = (left.to(dtype).flatten(0, -2).mT @ gradient.flatten(0, -2)).to(of_right.dtype)
        elif left is not None:
            second = (left.to(dtype).mT @ gradient).sum_to_size(of_right.shape).to(of_right.dtype)
        return first, second, None, None


class SparseNorm(torch.autograd.Function):
    """A LayerNorm whose gain is frozen; of each vector it stores the largest normalised values, [.., k]."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, gain: Tensor, shift: Tensor, epsilon: float) -> Tensor:
        """Normalise the last dimension, then apply gain and shift."""
        full = values.float()
        scale = (full.var(-1, correction=0, keepdim=True) + epsilon).rsqrt()
        normalised = (full - full.mean(-1, keepdim=True)) * scale
        ctx.dtype = values.dtype
        if ctx.needs_input_grad[0]:
            width = normalised.shape[-1]
            where = normalised.abs().topk(math.ceil(KEPT_BY_FROZEN_NORM * width), dim=-1).indices
            kept = normalised.gather(-1, where).to(values.dtype)
            ctx.save_for_backward(kept, where.to(torch.int16 if width < 2**15 else torch.int32), scale, gain)
        return (normalised * gain + shift).to(values.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        """Take what was not stored for zero."""
        gradient, result = gradient.float(), None
        if ctx.needs_input_grad[0]:
            kept, where, scale, gain = ctx.saved_tensors
            scaled = gradient * gain
            stored = torch.zeros_like(scaled).scatter_(-1, where.long(), kept.float())
            projected = stored * (scaled * stored).mean(-1, keepdim=True)
            result = (scale * (scaled - scaled.mean(-1, keepdim=True) - projected)).to(ctx.dtype)
        shift = gradient.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
        return result, None, shift, None


# -- which operations of a model store what they need in this way ----------------

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
