"""SlimFit (Ardakani et al., NAACL 2024): in every step most weight tensors are frozen, by their last update.

After `utils_ILS.py` and `ILSBERT.py` of arashardakani/SlimFit. The unit of freezing is one tensor: every
weight matrix, embeddings and head included, and every gain of a norm; biases and shifts always train. Its
storage of activations in few bits is in `layertune.methods.quantised`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layertune.config import RunConfig
from layertune.config.schema import Share
from layertune.errors import ConfigError
from layertune.methods.base import Method, Preparation, moves, train_all
from layertune.methods.quantised import quantise
from layertune.models.parameters import unused_parameters

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.runtime import Runtime
    from layertune.tasks import TaskData

log = logging.getLogger(__name__)

UNTRIED = 1e10  # scale of the first draws: far above any update, so that every unit is tried first

# Choice: [SlimFit] a number may count for at most a thousand times its own size; 0/0 counts as 0. The
# released code divides by zero here; the limit is reached only by numbers next to zero.
LARGEST_RATIO = 1e3


class SlimFit(Method):
    """Train the share 1 - `freezing_rate` of the units that changed most when they were last trained.

    A frozen unit has no gradient: neither momentum nor weight decay moves it. The ranking is read from the
    device once per step, before it; updates are measured there.

    Choice: [SlimFit] a step at rate zero (the first of a warm-up, which the source does not have) measures
    nothing; else what it trained would count as still and never train again.

    Raises:
        ConfigError: the freezing rate is out of range, or `quantise` cannot work here.
    """

    def __init__(self, run: RunConfig) -> None:
        super().__init__(run)
        # null = that of the task in method.freezing_rate_by_task, which is in its place here
        self.freezing_rate: float = self.value("freezing_rate", Share)
        self.quantised = bool(self.spec.options.get("quantise"))
        if self.quantised and run.train.activation_checkpointing:
            raise ConfigError(
                "method.quantise=true stores activations in few bits and train.activation_checkpointing=true "
                "stores none: choose one."
            )
        self.units: dict[str, nn.Parameter] = {}
        self.last_updates: Tensor  # [units], d in the source: the relative update when last trained
        self.active: list[int] = []
        self._before: list[Tensor] = []
        self._optimizer: torch.optim.Optimizer

    def prepare(self, model: TaskModel, data: TaskData, runtime: Runtime) -> Preparation:
        """Unfreeze all that may ever train, and draw the order in which the units are tried first."""
        expected = train_all(model)
        self.units = units_of(model)
        self.last_updates = first_ranks(len(self.units), self.run.seed).to(runtime.device)
        if self.quantised:
            quantise(model)
        frozen = self.num_frozen
        log.info("%s: %d of %d units are frozen in every step", self.spec.name, frozen, len(self.units))
        facts = {"units": len(self.units), "units_frozen": frozen, "freezing_rate": self.freezing_rate}
        return Preparation(expected, facts=facts)

    @property
    def num_frozen(self) -> int:
        """How many units are frozen in every step."""
        return int(self.freezing_rate * len(self.units))

    def optimizer_ready(self, optimizer: torch.optim.Optimizer, phase: int) -> None:
        """Remember who knows the learning rate."""
        self._optimizer = optimizer

    def before_step(self, model: TaskModel, step: int) -> None:
        """Freeze the units of the smallest last updates; keep the others' values to measure the next."""
        order = torch.argsort(self.last_updates, stable=True).tolist()
        self.active = sorted(order[self.num_frozen :])
        active = set(self.active)
        units = list(self.units.values())
        for number, unit in enumerate(units):
            unit.requires_grad_(number in active)
        measured = self.active if moves(self._optimizer) else []
        self._before = [units[number].detach().clone() for number in measured]

    @torch.no_grad()
    def after_step(self, model: TaskModel, step: int) -> None:
        """Measure how far the active units moved; the frozen ones keep what was measured last."""
        if not self._before:
            return
        units = list(self.units.values())
        moved = [
            relative_update(old, units[number]) for number, old in zip(self.active, self._before, strict=True)
        ]
        self._before = []
        known = list(self.last_updates.unbind())
        for number, update in zip(self.active, moved, strict=True):
            known[number] = update.to(self.last_updates.dtype)
        self.last_updates = torch.stack(known)  # nothing waits for the device

    def end_phase(self, model: TaskModel, optimizer: torch.optim.Optimizer, phase: int) -> None:
        """Leave the model as `prepare` did: every unit may train."""
        for unit in self.units.values():
            unit.requires_grad_(True)

    def state_dict(self) -> dict[str, Any]:
        """Return the last updates."""
        return {"last_updates": self.last_updates.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the last updates."""
        self.last_updates = state["last_updates"].to(self.last_updates.device)


def units_of(model: TaskModel) -> dict[str, nn.Parameter]:
    """Return what is frozen and trained as one, by name: weights of two dimensions or more, gains of norms.

    Paper: all but the classifier of a regression, which always trains. The unused pooler is none; the
    language model's head is one with the embedding it is tied to.
    """
    unused = unused_parameters(model)
    always = {model.head.out.weight} if model.kind == "regression" else set()
    gains = {
        module.weight
        for module in model.modules()
        if "norm" in type(module).__name__.lower()
        and isinstance(getattr(module, "weight", None), nn.Parameter)
    }
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if (parameter.dim() >= 2 or parameter in gains)
        and parameter not in unused
        and parameter not in always
    }


def first_ranks(num_units: int, seed: int) -> Tensor:
    """Draw the ranking of units that were never trained, [units]; from the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_units, generator=generator, dtype=torch.float64) * UNTRIED


def relative_update(old: Tensor, new: Tensor) -> Tensor:
    """Return the mean of |(old - new) / old| over all numbers of a tensor, a scalar on its device."""
    ratio = ((old - new) / old).abs_()
    return ratio.nan_to_num_(nan=0.0, posinf=LARGEST_RATIO).clamp_(max=LARGEST_RATIO).mean()
