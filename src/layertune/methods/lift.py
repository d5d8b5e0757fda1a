"""LIFT (Zhu et al. 2024): one Transformer layer is trained at a time, and over the run all of them are.

Choice: [LIFT] written from its abstract and introduction, its method section and code not being public: the
other methods' steps are divided equally among the layers, front to end; one schedule spans the run; the head
trains throughout.

Choice: [LIFT on E2E] the schedule warms up over a tenth of the steps, as for all methods, and a twelfth is
the first layer's: it trains while the rate still rises, and in a run of one step per layer at rate zero.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import torch

from layertune.config import RunConfig
from layertune.errors import ConfigError
from layertune.methods.base import Method, Phase, Preparation, head_parts, train_only

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.runtime import Runtime
    from layertune.tasks import TaskData

ORDERS = ("sequential", "reversed", "random", "cyclic")

AdamState = dict[str, torch.Tensor]


class Lift(Method):
    """One phase per layer: the old layer is frozen and its Adam state dropped, the new one starts afresh.

    `order: cyclic` changes the layer every `period` steps and keeps each layer's Adam state on the CPU until
    it is that layer's turn again. The head's state is kept from phase to phase in any order.

    Raises:
        ConfigError: the order is unknown, or the period below 1 or without effect.
    """

    def __init__(self, run: RunConfig) -> None:
        super().__init__(run)
        self.order: str = self.spec.options.get("order") or "sequential"
        period = self.option("period", int)
        self.period: int = 100 if period is None else period
        if self.order not in ORDERS:
            raise ConfigError(f"method.order={self.order} does not exist; known: {', '.join(ORDERS)}.")
        if period is not None and (self.order != "cyclic" or period < 1):
            raise ConfigError(
                f"method.period={period} is not allowed: it is at least 1, and goes with method.order=cyclic."
            )
        self.layers = layer_order(self.order, run.model.num_layers, run.seed)
        self.sequence = self.layers  # the layer of each phase, once the steps are known
        self.kept: dict[str, AdamState] = {}  # of tensors that train again later

    def prepare(self, model: TaskModel, data: TaskData, runtime: Runtime) -> Preparation:
        """Freeze all but the first layer and the head."""
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        expected = train_only(model, self._parts(model, self.layers[0]))
        return Preparation(expected_trainable=expected, facts={"layer_order": self.layers})

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Give each layer its share of the steps; the last ones take the remainder, one step each."""
        if self.order == "cyclic":
            whole, rest = divmod(total_steps, self.period)
            shares = [self.period] * whole + ([rest] if rest else [])
            self.sequence = tuple(islice(cycle(self.layers), len(shares)))
        else:
            share, rest = divmod(total_steps, len(self.layers))
            shares = [share + (i >= len(self.layers) - rest) for i in range(len(self.layers))]
            self.sequence = tuple(layer for layer, steps in zip(self.layers, shares, strict=True) if steps)
        return tuple(Phase(steps) for steps in shares if steps)

    def start_phase(self, model: TaskModel, phase: int) -> TaskModel:
        """Freeze all but this phase's layer and the head."""
        self.expected = train_only(model, self._parts(model, self.sequence[phase]))
        return model

    def expected_in_phase(self, phase: int) -> int | None:
        """Return the size of one layer and the head."""
        return self.expected

    def optimizer_ready(self, optimizer: torch.optim.Optimizer, phase: int) -> None:
        """Put in the Adam state that was kept; a tensor without one starts afresh."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if (state := self.kept.pop(self.names[parameter], None)) is not None:
                    optimizer.state[parameter] = _moved(state, parameter.device)

    def end_phase(self, model: TaskModel, optimizer: torch.optim.Optimizer, phase: int) -> None:
        """Keep the head's Adam state, in cyclic order also the layer's; all else is dropped."""
        stays = {p for part in self._parts(model) for p in part.parameters()}
        for parameter, state in optimizer.state.items():
            if parameter in stays:
                self.kept[self.names[parameter]] = state
            elif self.order == "cyclic":
                self.kept[self.names[parameter]] = _moved(state, torch.device("cpu"))

    def state_dict(self) -> dict[str, Any]:
        """Return the Adam state of the layers that wait for their next turn."""
        return {"kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the kept Adam state."""
        self.kept = dict(state["kept"])

    def _parts(self, model: TaskModel, *layers: int) -> list[torch.nn.Module]:
        chosen = [model.backbone.layers[layer - 1] for layer in layers]
        return [*chosen, *head_parts(model, self.run.model.train_final_norm)]


def layer_order(order: str, num_layers: int, seed: int) -> tuple[int, ...]:
    """Return the layers, 1-based, in the order of their training; a random order follows from the seed."""
    layers = list(range(1, num_layers + 1))
    if order == "reversed":
        layers.reverse()
    if order == "random":
        random.Random(seed).shuffle(layers)
    return tuple(layers)


def _moved(state: AdamState, device: torch.device) -> AdamState:
    return {name: value.to(device) for name, value in state.items()}
