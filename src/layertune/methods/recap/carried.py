"""Adam's moments between the phases of RECAP: they lie beside the whole model and return with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Choice: [RECAP, moments] what was not updated in a phase decays once, at its end, by the source's betas,
# whatever the run's are.
DECAY = {"exp_avg": 0.9, "exp_avg_sq": 0.999}

Places = Mapping[str, tuple[int, Tensor]]  # tensor -> the dimension that is cut, and which entries stayed


def write_back(whole: Tensor, values: Tensor, place: tuple[int, Tensor] | None) -> None:
    """Put values into a whole tensor, at the entries of one dimension that they came from (None = all)."""
    if place is None:
        whole.copy_(values)
    else:
        whole.index_copy_(*place, values)


def take_out(whole: Tensor, place: tuple[int, Tensor] | None) -> Tensor:
    """Return what `write_back` would replace, as a tensor of its own."""
    return whole.clone() if place is None else whole.index_select(*place)


class Moments:
    """Both moments of every parameter of the whole model, on the CPU, and the steps taken so far."""

    def __init__(self) -> None:
        self.steps = 0.0
        self.kept: dict[str, dict[str, Tensor]] = {}  # parameter -> moment -> whole tensor

    @torch.no_grad()
    def put(
        self,
        optimizer: torch.optim.Optimizer,
        trained: Mapping[str, nn.Parameter],
        places: Places,
        masks: Mapping[str, Tensor],
    ) -> None:
        """Give a new optimiser the moments of what it trains; masked rows get zero, so nothing moves them."""
        for name, parameter in trained.items():
            if name not in self.kept:
                continue
            state: dict[str, Tensor] = {"step": torch.tensor(self.steps, device=parameter.device)}
            for moment, whole in self.kept[name].items():
                values = take_out(whole, places.get(name)).to(parameter)
                state[moment] = values * masks[name] if name in masks else values
            optimizer.state[parameter] = state

    @torch.no_grad()
    def keep(
        self,
        optimizer: torch.optim.Optimizer,
        trained: Mapping[str, nn.Parameter],
        whole: Mapping[str, nn.Parameter],
        places: Places,
        masks: Mapping[str, Tensor],
    ) -> None:
        """Take over the moments of what was updated; all others decay."""
        for name, parameter in trained.items():
            state = optimizer.state.get(parameter)
            if not state:  # never reached by a gradient
                continue
            self.steps = float(state["step"])
            kept = self.kept.setdefault(name, {})
            for moment, decay in DECAY.items():
                all_of_it = kept.setdefault(moment, torch.zeros_like(whole[name], requires_grad=False))
                all_of_it.mul_(decay)
                new = state[moment].to(all_of_it)
                if name in masks:
                    new = torch.where(masks[name].cpu(), new, take_out(all_of_it, places.get(name)))
                write_back(all_of_it, new, places.get(name))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"steps": self.steps, "kept": self.kept}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.steps, self.kept = state["steps"], state["kept"]
