"""What is seen of a phase while it trains: which tensors required a gradient, what moved and what must not.

`layertune.training.engagement` judges the reports; the loop only collects them. Counting costs nothing while
the set of trained tensors stays the same, and fingerprints are taken at the ends of phases alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from layertune.models.parameters import checksum, fingerprints, places_of

if TYPE_CHECKING:
    from layertune.models import TaskModel

# A tensor counts as having received a gradient when Adam's second moment says that its gradients were larger
# than this: below it the update drowns in Adam's eps, and a tensor may rightly stay as it was.
GRADIENT_FLOOR = 1e-6


@dataclass(frozen=True)
class PhaseReport:
    """What was seen of one phase; tensors by name.

    Attributes:
        own: the model of the run was trained, not another one made from it.
        expected: parameters that had to require a gradient when the phase started; None = the method does
            not say.
        trainable: those that did, with their sizes.
        touched: those that did at one step or more.
        movable: those of them that did at a step whose learning rate was above zero.
        with_gradient: those of them that got a gradient.
        places: touched tensor -> its layer, 0 for what lies below the layers, None for what lies above.
        received: tensors whose gradients were large enough to move them.
        before: fingerprints at the start; empty in the first phase of the run's own model, for `Engagement`
            takes those before training.
        after: fingerprints at the end; empty in the last phase of the run's own model, for `Engagement` takes
            those after training.
        held_still: trained tensors kept their value in steps in which they were frozen; None = there was no
            such step among those that were looked at.
        steps: optimiser steps.
        steady: the tensors that required a gradient at the start did so in every step, and no others.
        at_once: most parameters with a gradient in one step.
        summed: parameters with a gradient, added up over the steps.
    """

    own: bool
    expected: int | None
    trainable: dict[str, int]
    touched: dict[str, int]
    movable: frozenset[str]
    with_gradient: dict[str, int]
    places: dict[str, int | None]
    received: frozenset[str]
    before: dict[str, str]
    after: dict[str, str]
    held_still: bool | None
    steps: int
    steady: bool
    at_once: int
    summed: int


class Witness:
    """Watches one phase.

    Args:
        model: the model that is trained in it.
        held: what its optimiser holds, by name.
        own: whether it is the model of the run.
        expected: see `PhaseReport`.
        first: whether it is the first phase of the run, whose fingerprints `Engagement` has taken.
        known: fingerprints with which the phase before ended; they are not taken again.
    """

    def __init__(
        self,
        model: TaskModel,
        held: Mapping[str, nn.Parameter],
        own: bool,
        expected: int | None,
        first: bool,
        known: Mapping[str, str],
    ) -> None:
        self.model, self.held, self.own, self.expected = model, held, own, expected
        self.named = list(model.named_parameters())
        self.trainable = {name: p.numel() for name, p in self.named if p.requires_grad}
        self.watched = {*self.trainable, *held} if own else {name for name, _ in self.named}
        self.before: dict[str, str] = {}
        if not (own and first):
            self.before = {name: known[name] for name in self.watched & known.keys()}
            self.before |= fingerprints((n, p) for n, p in self.named if n in self.watched - known.keys())
        self.touched: dict[str, int] = {}
        self.movable: set[str] = set()
        self.with_gradient: dict[str, int] = {}
        self.held_still: bool | None = None
        self.steps = self.at_once = self.summed = self.changes = 0
        self.steady = True
        self._active: list[bool] = []
        self._changed = False
        self._moves = False
        self._current = 0
        self._frozen: dict[str, int] = {}

    def before_step(self, moves: bool) -> None:
        """Note which tensors require a gradient in this step.

        When the set has changed for the 1st, 2nd, 4th, 8th … time, also take the checksums of the optimiser's
        tensors that are frozen in this step; `after_step` compares them.

        Args:
            moves: the learning rate of the step is above zero.
        """
        active = [parameter.requires_grad for _, parameter in self.named]
        self._changed = active != self._active
        self._frozen = {}
        if not self._changed and moves <= self._moves:
            return
        self._active, self._moves = active, moves
        now = {n: p.numel() for (n, p), is_active in zip(self.named, active, strict=True) if is_active}
        self.movable |= now.keys() if moves else set()
        if not self._changed:
            return
        self.changes += 1
        self.touched |= now
        self.steady = self.steady and now == self.trainable
        if self.changes & (self.changes - 1) == 0:
            self._frozen = {n: checksum(p) for n, p in self.held.items() if not p.requires_grad}

    def after_backward(self) -> None:
        """Count the parameters that got a gradient."""
        if self._changed:
            got = {name: p.numel() for name, p in self.named if p.requires_grad and p.grad is not None}
            self.with_gradient |= got
            self._current = sum(got.values())
            self.at_once = max(self.at_once, self._current)
        self.steps += 1
        self.summed += self._current

    def after_step(self) -> None:
        """Compare the tensors that were frozen in this step with their checksums before it, if taken."""
        if self._frozen:
            still = all(checksum(self.held[name]) == value for name, value in self._frozen.items())
            self.held_still = still and self.held_still is not False

    def report(self, optimizer: torch.optim.Optimizer, last: bool) -> PhaseReport:
        """Close the phase; `last` = no other follows, and the run's last fingerprints will be taken."""
        after = {} if self.own and last else fingerprints((n, p) for n, p in self.named if n in self.watched)
        places = places_of(self.model)
        received = set()
        for name, parameter in self.held.items():
            moment = optimizer.state.get(parameter, {}).get("exp_avg_sq")
            if name in self.touched and moment is not None and float(moment.max()) > GRADIENT_FLOOR**2:
                received.add(name)
        return PhaseReport(
            own=self.own,
            expected=self.expected,
            trainable=self.trainable,
            touched=self.touched,
            movable=frozenset(self.movable),
            with_gradient=self.with_gradient,
            places={name: places[name] for name in self.touched},
            received=frozenset(received),
            before=self.before,
            after=after,
            held_still=self.held_still,
            steps=self.steps,
            steady=self.steady,
            at_once=self.at_once,
            summed=self.summed,
        )

    _KEPT = (
        "trainable",
        "touched",
        "movable",
        "with_gradient",
        "before",
        "held_still",
        "steps",
        "at_once",
        "summed",
        "changes",
        "steady",
    )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {name: getattr(self, name) for name in self._KEPT}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        for name, value in state.items():
            setattr(self, name, value)
