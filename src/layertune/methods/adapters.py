"""Bottleneck adapters (Houlsby et al. 2019; Tables 1-4): two in every layer, near the identity at first.

No kept library has them for today's transformers. An adapter hangs as a child on the last module before a
residual addition and acts through a forward hook, so that no module is replaced or renamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from layertune.config import RunConfig
from layertune.config.schema import Count
from layertune.methods.added import AddedParameters
from layertune.models.architectures import Sites

if TYPE_CHECKING:
    from layertune.models import Backbone

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}
INIT_STD = 0.01  # of the weights, cut at two standard deviations; biases are zero


class Adapter(nn.Module):
    """One bottleneck: Up(act(Down(x))), to be added to x; 2·width·bottleneck + bottleneck + width numbers."""

    def __init__(self, width: int, bottleneck: int, activation: str) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.activation = ACTIVATIONS[activation]()
        self.up = nn.Linear(bottleneck, width)
        for linear in (self.down, self.up):
            nn.init.trunc_normal_(linear.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
            nn.init.zeros_(linear.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Map [..., width] to what is added to it."""
        return self.up(self.activation(self.down(states)))

    def attach(self, site: nn.Module) -> None:
        """Become the child `adapter` of a module and act on its output from now on."""
        site.add_module("adapter", self)
        site.register_forward_hook(_apply)


def _apply(site: nn.Module, _: tuple[Any, ...], output: Tensor) -> Tensor:
    return output + site.get_submodule("adapter")(output).to(output.dtype)


class Adapters(AddedParameters):
    """Adapters behind the attention's output projection and behind the feed-forward network's.

    Each stands before the residual addition and the LayerNorm; dropout, where the architecture has it there,
    comes before the adapter, as in the source. Gemma-2 normalises once more before it adds: the adapter comes
    before that norm.

    Choice: [adapters] GELU; the norms of the blocks train with the adapters, as in the source
    (`train_norms`).
    """

    def __init__(self, run: RunConfig) -> None:
        super().__init__(run)
        self.bottleneck: int = self.value("bottleneck", Count)
        self.one_of("activation", ACTIVATIONS)

    def insert(self, backbone: Backbone, sites: Sites) -> dict[str, Any]:
        """Put two adapters into every block."""
        for block, attention_end in backbone.blocks_at(sites.attention_end):
            for site in (attention_end, block.get_submodule(sites.ffn_end)):
                Adapter(backbone.hidden_size, self.bottleneck, self.options["activation"]).attach(site)
        return {}

    def also_trained(self, backbone: Backbone) -> Iterator[nn.Parameter]:
        """Yield gains and shifts of the norms inside the blocks, unless `train_norms` is off."""
        if not self.options["train_norms"]:
            return
        for module in backbone.layers.modules():
            if "norm" in type(module).__name__.lower():
                yield from module.parameters(recurse=False)
