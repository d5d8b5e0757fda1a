"""What RECAP carries from phase to phase: Adam's moments, which lie beside the whole model and return with
it, and how many numbers trained: in a matrix those of the rows that are neither removed nor masked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


# Of a tensor, per dimension, which entries trained; None = all.
Chosen = tuple[Tensor | None, ...]


class Counts:
    """Counts over the phases of a run.

    Args:
        free: what may train in the whole model, by name.
        embeddings: parameters outside the layers, by name; in `free` or not.
    """

    def __init__(self, free: Mapping[str, nn.Parameter], embeddings: Mapping[str, nn.Parameter]) -> None:
        self.shapes = {name: parameter.shape for name, parameter in free.items()}
        self.embeddings = sum(parameter.numel() for parameter in embeddings.values())
        self.are_free = set(embeddings) <= self.shapes.keys()
        self.phases: list[dict[str, Chosen]] = []

    def add(
        self, places: Mapping[str, tuple[int, Tensor]], masks: Mapping[str, Tensor], row_dim: int
    ) -> None:
        """Note what trains in a phase.

        Args:
            places: tensor -> the dimension that is cut and which entries of it stay.
            masks: matrix -> [rows of the pruned matrix] that train.
            row_dim: the dimension of a matrix that counts its rows.
        """
        phase: dict[str, Chosen] = {}
        for name, (dim, where) in places.items():
            chosen: list[Tensor | None] = [None] * len(self.shapes[name])
            chosen[dim] = where
            if name in masks:
                rows = where if dim == row_dim else torch.arange(len(masks[name]))
                chosen[row_dim] = rows[masks[name]]
            phase[name] = tuple(chosen)
        self.phases.append(phase)

    def _sizes(self, phase: Mapping[str, Chosen]) -> dict[str, int]:
        return {name: _size(shape, phase.get(name)) for name, shape in self.shapes.items()}

    def facts(self, steps: Sequence[int]) -> dict[str, Any]:
        """Return the largest, the mean (by steps) and the union over the phases."""
        sizes = [self._sizes(phase) for phase in self.phases]
        totals = [sum(of.values()) for of in sizes]
        in_matrices = [
            sum(of[name] for name, chosen in phase.items() if len(chosen) == 2)
            for of, phase in zip(sizes, self.phases, strict=True)
        ]
        taken = list(steps[: len(totals)])
        at_once = max(totals)
        frozen = at_once - (self.embeddings if self.are_free else 0)
        return {
            "sizes": sizes[0],
            "at_once": at_once,
            "touched": self._touched(),
            "mean_trained": sum(n * k for n, k in zip(totals, taken, strict=True)) / sum(taken),
            "trained_in_matrices": max(in_matrices),
            "trained_with_embeddings": frozen + self.embeddings,
            "trained_without_embeddings": frozen,
        }

    def _touched(self) -> int:
        """Count the numbers that trained in one phase or more."""
        total = 0
        for name, shape in self.shapes.items():
            found = [phase.get(name) for phase in self.phases]
            if None in found or not found:
                total += shape.numel()
                continue
            ever = torch.zeros(shape, dtype=torch.bool)
            for chosen in found:
                assert chosen is not None
                ever[torch.meshgrid(*_indices(shape, chosen), indexing="ij")] = True
            total += int(ever.sum())
        return total

    def state(self) -> list[dict[str, Chosen]]:
        """Return what a checkpoint keeps."""
        return self.phases

    def load(self, state: Sequence[dict[str, Chosen]]) -> None:
        """Take up the state of a checkpoint."""
        self.phases = list(state)


def _indices(shape: torch.Size, chosen: Chosen) -> list[Tensor]:
    return [torch.arange(n) if of is None else of for n, of in zip(shape, chosen, strict=True)]


def _size(shape: torch.Size, chosen: Chosen | None) -> int:
    if chosen is None:
        return shape.numel()
    total = 1
    for entries in _indices(shape, chosen):
        total *= len(entries)
    return total
