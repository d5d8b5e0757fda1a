"""Operations that store what their backward pass needs in few bits; the forward pass is exact.

For SlimFit's load balancing (`layertune.methods.quantised`); formats after `utils_ILS.py` of its code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

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
