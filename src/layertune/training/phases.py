"""The phases of a run. In each one model is trained, by an optimiser of its own, along a part of the
schedule.

Most methods have one phase. Where there are several, one may end in the middle of an epoch. What an optimiser
knew (Adam's moments) is dropped at the end of its phase, unless the method carries it over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from layertune.config import RunConfig
from layertune.methods import Method
from layertune.models.parameters import put_values, values_of
from layertune.runtime import Stopwatch
from layertune.training.optim import build_optimizer, build_schedule
from layertune.training.proof import PhaseReport, Witness

if TYPE_CHECKING:
    from layertune.models import TaskModel


class Phases:
    """All phases of a run, and the one in progress.

    Args:
        run: where its timing protocol takes warm-up steps, they lengthen the first phase.
        model: the model of the run.
        method: says how many phases there are and how long each is.
        total_steps: optimiser steps of the run, warm-up included.
        watch: what a method does at the ends of phases counts as training, so it runs meanwhile.

    Attributes:
        trained: the model that is trained in this phase: the run's own, or one that the method made from it.
        held: the parameters that the optimiser of this phase holds, by name.
        reports: what was seen of the phases that have ended.

    Raises:
        ValueError: the method's phases do not add up to the run.
    """

    def __init__(
        self, run: RunConfig, model: TaskModel, method: Method, total_steps: int, watch: Stopwatch
    ) -> None:
        self.run, self.model, self.method, self.watch = run, model, method, watch
        warmup = (run.protocol.warmup_steps or 0) if run.protocol.max_steps else 0
        self.plan = method.phases(total_steps - warmup)
        steps = [phase.steps for phase in self.plan]
        if not steps or min(steps) < 1 or sum(steps) != total_steps - warmup:
            raise ValueError(f"method {run.method.name} cuts {total_steps - warmup} steps into {steps}")
        self.ends = list(accumulate([warmup + steps[0], *steps[1:]]))
        self.index: int | None = None
        self.trained = model
        self.held: dict[str, nn.Parameter] = {}
        self.reports: list[PhaseReport] = []
        self.optimizer: torch.optim.Optimizer
        self.schedule: torch.optim.lr_scheduler.LambdaLR
        self.witness: Witness

    @property
    def own(self) -> bool:
        """Whether the model of the run itself is trained in this phase, not another one made from it."""
        return self.trained is self.model

    def enter(self, step: int) -> None:
        """Go on to the next phase where the one in progress ends.

        Args:
            step: how many optimiser steps of the run are finished; the next one decides about the phase.
        """
        if self.index is None:
            self._open(0)
        elif step >= self.ends[self.index] and self.index + 1 < len(self.plan):
            with self._paused():
                self._close(last=False)
                self._open(self.index + 1)

    def finish(self) -> None:
        """End the last phase: the run is over."""
        if self.index is not None:
            self._close(last=True)

    def _open(self, index: int) -> None:
        self.index = index
        before = self.trained
        with self._counted():
            self._adopt(self.method.start_phase(self.model, index))
        known = self.reports[-1].after if self.reports and before is self.trained and self.own else {}
        self.witness = self._witness(known)
        if self.trained is not before:
            self.trained.train()

    def _adopt(self, trained: TaskModel) -> None:
        """Train this model from now on, with a new optimiser and its part of the schedule."""
        assert self.index is not None
        self.trained = trained
        wanted = self.run.train.activation_checkpointing
        if wanted and not trained.backbone.activation_checkpointing:
            trained.backbone.enable_activation_checkpointing()
        self.held = dict(self.method.optimised(trained))
        self.optimizer = build_optimizer(trained, self.run.train, self.held)
        self.method.optimizer_ready(self.optimizer, self.index)
        self.schedule = build_schedule(self.optimizer, self.run.train, *self._stretch(self.index))

    def _stretch(self, index: int) -> tuple[int, int]:
        """Return how many steps the schedule of a phase has, and how many of them lie before the phase.

        A schedule begins with the first phase and with each phase that restarts it
        (`Phase.restart_schedule`).
        """
        restarts = [i for i, phase in enumerate(self.plan) if phase.restart_schedule or i == 0]
        first = max(i for i in restarts if i <= index)
        last = min([i - 1 for i in restarts if i > index], default=len(self.plan) - 1)
        starts = [0, *self.ends]
        return self.ends[last] - starts[first], starts[index] - starts[first]

    def _witness(self, known: Mapping[str, str]) -> Witness:
        assert self.index is not None
        return Witness(
            self.trained,
            self.held,
            own=self.own,
            expected=self.method.expected_in_phase(self.index),
            first=self.index == 0,
            known=known,
        )

    def _close(self, last: bool) -> None:
        assert self.index is not None
        self.reports.append(self.witness.close(self.optimizer, last))
        with self._counted():
            self.method.end_phase(self.trained, self.optimizer, self.index)
        for parameter in self.trained.parameters():
            parameter.grad = None
        if not last:
            # Free their memory before the next phase builds its own.
            del self.optimizer, self.schedule, self.witness
            self.held = {}

    @contextmanager
    def _paused(self) -> Iterator[None]:
        """Stop the watch, if it runs, for the length of the block: fingerprints are no part of training."""
        running = self.watch.running
        if running:
            self.watch.stop()
        yield
        if running:
            self.watch.start()

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Let the watch run for the length of the block: the work of a method between phases is training."""
        self.watch.start()
        yield
        self.watch.stop()

    def may_change(self) -> set[str]:
        """Return the names of the parameters of the run's model that training may change, in any phase."""
        if len(self.plan) > 1:
            return {name for name, _ in self.model.named_parameters()}
        return set(self.held) if self.own else set()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, with the values of all tensors that were trained so far."""
        names = {name for report in self.reports if report.own for name in report.touched}
        return {
            "index": self.index,
            "reports": [dataclasses.asdict(report) for report in self.reports],
            "witness": self.witness.state(),
            "method": self.method.state_dict(),
            "model": values_of(self.model, names | (set(self.held) if self.own else set())),
            "held": list(self.held),
            "trained": {} if self.own else values_of(self.trained, set(self.held)),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up the state of a checkpoint: the phase that was in progress goes on.

        Raises:
            ValueError: the interrupted run trained other tensors in this phase than this one would.
        """
        self.index, self.reports = state["index"], [PhaseReport(**report) for report in state["reports"]]
        put_values(self.model, state["model"])
        self.method.load_state_dict(state["method"])
        assert self.index is not None
        self._adopt(self.method.resume_phase(self.model, self.index))
        if state["held"] != list(self.held):  # an optimiser's state names its tensors by their place alone
            raise ValueError("it trains other tensors than this run")
        put_values(self.trained, state["trained"])
        self.witness = self._witness(state["witness"]["report"]["before"])
        self.witness.load(state["witness"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
