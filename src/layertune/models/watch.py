"""What is seen of a model's layers during one forward pass, and whether it is what a layer's state must be.

Hooks on the blocks see the states as they pass. A model is watched rightly where every layer runs once, in
order, and leaves one state [B, T, H] behind. Architectures that pool, repeat, drop or project do not: they
are told apart here by what they do, not by their name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layertune.errors import ModelError

if TYPE_CHECKING:
    from layertune.models.backbone import Backbone

# Called once per layer, first to last: its number (1..L), the states entering and leaving it [B, T, H].
OnBlock = Callable[[int, Tensor, Tensor], None]


class BlockHooks:
    """Hooks on the blocks of a backbone for the length of one forward pass.

    Args:
        backbone: its architecture says how the blocks hold their states.
        on_block: is told of every layer.
        first: the lowest layer that runs, counted from 1.
        shape: [B, T, H] of every state.
    """

    def __init__(
        self, backbone: Backbone, on_block: OnBlock, first: int, shape: tuple[int, int, int]
    ) -> None:
        self.backbone, self.on_block, self.first, self.shape = backbone, on_block, first, shape
        self.layers = backbone.layers
        # Some releases of transformers run the hooks of a recomputed block inside it. It must save the same
        # tensors when it runs again, without hooks: so nothing is picked before the pass is over.
        self.defer = backbone.training and backbone.activation_checkpointing
        self.numbers: list[int] = []  # of the layers that ran, in their order
        self.seen: list[tuple[int, Tensor, Tensor]] = []  # reported at the end
        self.handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> BlockHooks:
        for number, layer in list(enumerate(self.layers, start=1))[self.first - 1 :]:
            self.handles.append(layer.register_forward_hook(self._hook(number), with_kwargs=True))
        return self

    def _hook(self, number: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            states = output[0] if isinstance(output, (tuple, list)) else output  # DeBERTa: tuple, GPT: list
            after = self._state(states, f"layer {number} leaves")
            before = args[0] if args else kwargs.get("hidden_states")
            before = self._state(before, f"layer {number} is given").to(after.device)
            self.numbers.append(number)
            if self.defer or number == len(self.layers):
                self.seen.append((number, before, after))
            else:
                self.on_block(number, before, after)

        return hook

    def _state(self, state: Any, what: str) -> Tensor:
        known = self.backbone.architecture
        if isinstance(state, Tensor):
            state = state.transpose(0, 1) if known.time_first and state.ndim == 3 else state
            state = state[:, : self.shape[1]] if known.padded else state
            if state.shape == self.shape:
                return state
        found = list(state.shape) if isinstance(state, Tensor) else f"a {type(state).__name__}"
        raise ModelError(
            f"what {what} is {found} and not the states of the tokens, {list(self.shape)}: the layers of "
            "this architecture cannot be compared with each other."
        )

    def finish(self, last_hidden_state: Tensor) -> None:
        """Report what is left, after the pass.

        Raises:
            ModelError: a layer did not run, or ran more than once, or the model's last state is another
                thing than the states of its layers.
        """
        wanted = range(self.first, len(self.layers) + 1)
        if self.numbers != list(wanted):
            odd = next((n for n in wanted if self.numbers.count(n) != 1), wanted[0])
            times = self.numbers.count(odd)
            raise ModelError(
                f"layer {odd} of {len(self.layers)} ran {times} times in one forward pass, or out of order: "
                "a model that drops (layerdrop), repeats or shares layers has no one state per layer."
            )
        for number, before, after in self.seen:
            if number == len(self.layers) and self.backbone.last_layer != "raw":
                if last_hidden_state.shape != self.shape:
                    raise ModelError(
                        f"the model's last state is {list(last_hidden_state.shape)} and those of its layers "
                        f"are {list(self.shape)} (a projection behind the last layer): take that layer's own "
                        "output (last_layer=raw)."
                    )
                after = last_hidden_state
            self.on_block(number, before, after)

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.seen.clear()
