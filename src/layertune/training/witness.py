"""What is seen of a phase while it trains: which tensors required a gradient, what moved and what must not.

`layertune.training.engagement` judges the reports; the loop only collects them. Counting costs nothing while
the set of trained tensors stays the same, and fingerprints are taken at the ends of phases alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from layertune.models.parameters import checksum, fingerprints, places_of

if TYPE_CHECKING:
    from layertune.models import TaskModel

# A tensor counts as having received a gradient when Adam's second moment says that its gradients were larger
# than this: below it the update drowns in Adam's eps, and a tensor may rightly stay as it was.
GRADIENT_FLOOR = 1e-6


@dataclass
class PhaseReport:
    """What was seen of one phase; tensors by name, those of a mapping with their sizes.

    Attributes:
        own: the model of the run was trained, not another one made from it.
        expected: parameters that had to require a gradient when the phase started; None = the method does
            not say.
        trainable: tensors that required a gradient then.
        before: fingerprints at the start; empty in the first phase of the run's own model, for `Engagement`
            takes those before training.
        after: fingerprints at the end; empty in the last phase of the run's own model, for `Engagement` takes
            those after training.
        touched: tensors that required a gradient in at least one step.
        movable: those of them that did in a step whose learning rate was above zero.
        with_gradient: those of them that got a gradient.
        received: those of them whose gradients were large enough to move them.
        places: touched tensor -> its layer, 0 for what lies below the layers, None for what lies above.
        held_still: trained tensors kept their value in the steps in which they were frozen; None = no such
            step was looked at.
        steps: optimiser steps.
        steady: the tensors that required a gradient at the start did so in every step, and no others.
        at_once: the most parameters that got a gradient in one step.
        summed: parameters that got a gradient, added up over the steps.
    """

    own: bool
    expected: int | None
    trainable: dict[str, int]
    before: dict[str, str]
    after: dict[str, str] = field(default_factory=dict)
    touched: dict[str, int] = field(default_factory=dict)
    movable: set[str] = field(default_factory=set)
    with_gradient: dict[str, int] = field(default_factory=dict)
    received: set[str] = field(default_factory=set)
    places: dict[str, int | None] = field(default_factory=dict)
    held_still: bool | None = None
    steps: int = 0
    steady: bool = True
    at_once: int = 0
    summed: int = 0


class Witness:
    """Watches one phase and writes its report.

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
        self.model, self.held = model, held
        self.named = list(model.named_parameters())
        trainable = {name: p.numel() for name, p in self.named if p.requires_grad}
        self.watched = {*trainable, *held} if own else {name for name, _ in self.named}
        before: dict[str, str] = {}
        if not (own and first):
            before = {name: known[name] for name in self.watched & known.keys()}
            before |= fingerprints((n, p) for n, p in self.named if n in self.watched - known.keys())
        self.report = PhaseReport(own, expected, trainable, before)
        self.changes = 0  # how often the set of trained tensors was another than in the step before
        self._active: list[bool] = []
        self._changed = False
        self._moves = False
        self._current = 0  # parameters that get a gradient in a step
        self._frozen: dict[str, int] = {}

    def before_step(self, moves: bool) -> None:
        """Note which tensors require a gradient in this step.

        When the set has changed for the 1st, 2nd, 4th, 8th … time, also take the checksums of the optimiser's
        tensors that are frozen in this step; `after_step` compares them.

        Args:
            moves: the learning rate of the step is above zero.
        """
        report = self.report
        active = [parameter.requires_grad for _, parameter in self.named]
        self._changed = active != self._active
        self._frozen = {}
        if not self._changed and moves <= self._moves:
            return
        self._active, self._moves = active, moves
        now = {n: p.numel() for (n, p), is_active in zip(self.named, active, strict=True) if is_active}
        report.movable |= now.keys() if moves else set()
        if not self._changed:
            return
        self.changes += 1
        report.touched |= now
        report.steady = report.steady and now == report.trainable
        if self.changes & (self.changes - 1) == 0:
            self._frozen = {n: checksum(p) for n, p in self.held.items() if not p.requires_grad}

    def after_backward(self) -> None:
        """Count the parameters that got a gradient; the same ones do as long as the same tensors train."""
        report = self.report
        if self._changed:
            got = {name: p.numel() for name, p in self.named if p.requires_grad and p.grad is not None}
            report.with_gradient |= got
            self._current = sum(got.values())
            report.at_once = max(report.at_once, self._current)
        report.steps += 1
        report.summed += self._current

    def after_step(self) -> None:
        """Compare the tensors that were frozen in this step with their checksums before it, if taken."""
        if self._frozen:
            still = all(checksum(self.held[name]) == value for name, value in self._frozen.items())
            self.report.held_still = still and self.report.held_still is not False

    def close(self, optimizer: torch.optim.Optimizer, last: bool) -> PhaseReport:
        """Return the report at the end of the phase.

        Args:
            optimizer: of the phase; its second moments tell how large the gradients were.
            last: no other phase follows, and `Engagement` will take the run's last fingerprints.
        """
        report, places = self.report, places_of(self.model)
        if not (report.own and last):
            report.after = fingerprints((n, p) for n, p in self.named if n in self.watched)
        for name, parameter in self.held.items():
            moment = optimizer.state.get(parameter, {}).get("exp_avg_sq")
            if name in report.touched and moment is not None and float(moment.max()) > GRADIENT_FLOOR**2:
                report.received.add(name)
        report.places = {name: places[name] for name in report.touched}
        return report

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"report": asdict(self.report), "changes": self.changes}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.report, self.changes = PhaseReport(**state["report"]), state["changes"]
