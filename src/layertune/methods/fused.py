"""Low-rank updates and gains for one linear map that holds query, key and value (GPT-2, DeBERTa v1).

`peft` would treat such a map as a whole: a LoRA on it also moves the keys, a gain on it also scales the
queries. Here each part is handled as if it were a matrix of its own. The modules hang on the fused map as
children and act through a forward hook, so that the map and its names stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PARTS = ("query", "key", "value")


@dataclass(frozen=True)
class FusedLayout:
    """How the three parts share the output of a fused map: [groups, 3, width], flattened.

    One group = thirds (GPT-2); one group per head = query, key and value of each head in turn (DeBERTa v1).
    """

    groups: int

    def join(self, parts: Mapping[str, Tensor], fill: float) -> Tensor:
        """Lay out parts [..., groups * width] as the fused output [..., groups * 3 * width].

        A missing part is filled with one value.
        """
        example = next(iter(parts.values()))
        missing = torch.full_like(example, fill)
        laid_out = [parts.get(name, missing).unflatten(-1, (self.groups, -1)) for name in PARTS]
        return torch.stack(laid_out, dim=-2).flatten(-3)


class FusedModule(nn.Module):
    """Base of what changes the output of a fused map.

    Args:
        layout: where the parts are.
        projection: the fused map: an `nn.Linear` or GPT-2's `Conv1D` (its weight is transposed).
    """

    folded = False  # whether the map holds the change itself and this module rests

    def __init__(self, layout: FusedLayout, projection: nn.Module) -> None:
        super().__init__()
        self.layout = layout
        self.transposed = not isinstance(projection, nn.Linear)
        rows, columns = projection.weight.shape
        self.in_features, out_features = (rows, columns) if self.transposed else (columns, rows)
        self.width = out_features // len(PARTS)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the changed output of the map for its inputs."""
        raise NotImplementedError

    def fold(self, projection: nn.Module) -> None:
        """Change the weights of the map in place, so that it does alone what it does with this module."""
        raise NotImplementedError

    def folded_into(self, projection: nn.Module) -> list[nn.Parameter]:
        """Return the parameters that `fold` changes."""
        return list(projection.parameters(recurse=False))

    def attach(self, projection: nn.Module) -> None:
        """Become the child `fused` of a map and act on its output from now on."""
        projection.add_module("fused", self)
        projection.register_forward_hook(_apply)


def _apply(projection: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    module = projection.get_submodule("fused")
    return output if module.folded else module(args[0], output)


class FusedLora(FusedModule):
    """A LoRA of its own for some parts of a fused map: output + (alpha / r)·B·A·dropout(input) per part.

    As in `peft`, A is Kaiming-uniform (the default of `nn.Linear`), B is zero, and each part has a dropout of
    its own.
    """

    def __init__(
        self,
        layout: FusedLayout,
        projection: nn.Module,
        parts: tuple[str, ...],
        r: int,
        alpha: float,
        dropout: float,
    ) -> None:
        super().__init__(layout, projection)
        self.scale = alpha / r
        self.dropout = nn.Dropout(dropout)
        self.a = nn.ModuleDict({part: nn.Linear(self.in_features, r, bias=False) for part in parts})
        self.b = nn.ModuleDict({part: nn.Linear(r, self.width, bias=False) for part in parts})
        for linear in self.b.values():
            nn.init.zeros_(linear.weight)

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Add the low-rank updates."""
        updates = {part: self.b[part](a(self.dropout(inputs))) for part, a in self.a.items()}
        return output + self.scale * self.layout.join(updates, fill=0.0).to(output.dtype)

    @torch.no_grad()
    def fold(self, projection: nn.Module) -> None:
        """Add (alpha / r)·B·A to the rows of each part."""
        updates = {part: (self.b[part].weight @ a.weight).T for part, a in self.a.items()}  # [in, width]
        change = self.scale * self.layout.join(updates, fill=0.0)
        projection.weight += change if self.transposed else change.T


class FusedGains(FusedModule):
    """An element-wise gain, one at first, on some parts of a fused map.

    Args:
        late_bias: biases that the attention adds to a part behind the map (DeBERTa v1): they are scaled too,
            as the bias of a separate matrix would be. Their parameters stay where they are.
    """

    def __init__(
        self,
        layout: FusedLayout,
        projection: nn.Module,
        parts: tuple[str, ...],
        late_bias: Mapping[str, nn.Parameter] | None = None,
    ) -> None:
        super().__init__(layout, projection)
        self.gains = nn.ParameterDict({part: nn.Parameter(torch.ones(self.width)) for part in parts})
        self._late_bias = tuple((late_bias or {}).items())  # a tuple: not registered here a second time

    def forward(self, inputs: Tensor, output: Tensor) -> Tensor:
        """Scale the parts."""
        gains = dict(self.gains.items())
        scaled = output * self.layout.join(gains, fill=1.0)
        extra = {part: (gains[part] - 1.0) * bias for part, bias in self._late_bias if part in gains}
        if extra:
            scaled = scaled + self.layout.join(extra, fill=0.0)
        return scaled.to(output.dtype)

    @torch.no_grad()
    def fold(self, projection: nn.Module) -> None:
        """Scale the rows of each part, and the biases."""
        gains = dict(self.gains.items())
        factor = self.layout.join(gains, fill=1.0)
        projection.weight *= factor if self.transposed else factor[:, None]
        if projection.bias is not None:
            projection.bias *= factor
        for part, bias in self._late_bias:
            if part in gains:
                bias *= gains[part]

    def folded_into(self, projection: nn.Module) -> list[nn.Parameter]:
        """Return the parameters that `fold` changes."""
        return [*super().folded_into(projection), *(bias for _, bias in self._late_bias)]
