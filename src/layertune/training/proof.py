"""Proof that a method did what it says: frozen tensors kept every bit, and trained ones changed.

A `Witness` collects what is seen of a phase while it trains; `Engagement` judges the reports of all phases.
Counting costs nothing while the set of trained tensors stays the same, and fingerprints are taken at the ends
of phases alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from layertune.config import RunConfig
from layertune.config.identity import weights_key
from layertune.evaluation.evaluate import majority_accuracy
from layertune.methods import Preparation, count
from layertune.models.parameters import checksum, fingerprints, places_of, unused_parameters
from layertune.records.record import ChecksRecord, ModelRecord
from layertune.tasks import TaskData

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.training.outcome import TrainOutcome

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


class Engagement:
    """The fingerprints of all parameters before training, to be compared with those after it.

    They are taken when the method has prepared the model. What was frozen or trained in between, and when, is
    in the reports of the phases (`layertune.training.proof`).
    """

    def __init__(self, model: TaskModel) -> None:
        self.before = fingerprints(model.named_parameters())

    def check(
        self, run: RunConfig, model: TaskModel, data: TaskData, prep: Preparation, outcome: TrainOutcome
    ) -> ChecksRecord:
        """Return the checks of a finished training.

        `frozen_unchanged`: tensors that required no gradient during a whole phase are the same bit for bit
        after it, and so are, in the steps that were looked at, those that were frozen for a single step.

        `trained_changed`: every tensor that received a gradient, in a step whose learning rate was above
        zero, has changed; and in every layer that was to train, at least one tensor has. The second part
        finds a layer that the optimiser never held: none of its tensors has received anything.
        """
        frozen, trained = self._compare(model, outcome.phases)
        return ChecksRecord(
            frozen_unchanged=all(frozen) if frozen else None,
            trained_changed=bool(trained) and all(trained),
            loss_finite=outcome.loss_finite,
            trainable_matches_selection=_matches(model, prep, outcome.phases),
            beats_majority=_beats_majority(run, data, outcome),
        )

    def _compare(self, model: TaskModel, phases: Sequence[PhaseReport]) -> tuple[list[bool], list[bool]]:
        """Return two lists of statements, true or false: about frozen tensors, and about trained ones."""
        frozen: list[bool] = [report.held_still for report in phases if report.held_still is not None]
        trained: list[bool] = []
        final = fingerprints(model.named_parameters())
        known = dict(self.before)  # the fingerprints of the run's own model when it was last seen
        moving: set[str] = set()  # trained in the phase before; between two phases a method may change it
        for report in phases:
            start = {**known, **report.before} if report.own else report.before
            end = report.after or final
            if report.own:
                frozen += [known[n] == value for n, value in report.before.items() if n not in moving]
            watched = end.keys() & (report.before.keys() or start.keys())
            frozen += [start[name] == end[name] for name in watched - report.touched.keys()]
            trained += _trained(report, {name for name in watched if start[name] != end[name]})
            if report.own:
                known |= {name: end[name] for name in watched}
                moving = set(report.touched)
        if all(report.own for report in phases):
            frozen += [final[name] == value for name, value in known.items() if name not in moving]
        else:  # another model was trained and written back; what no phase trained, by name, is as it was
            touched = {name for report in phases for name in report.touched}
            frozen += [final[name] == value for name, value in self.before.items() if name not in touched]
        return frozen, trained


def _trained(report: PhaseReport, moved: set[str]) -> list[bool]:
    """State of each tensor that received a gradient whether it moved, and of each layer whether a tensor did.

    Nothing is said about a tensor that was trained at rate zero alone: it could not move.

    Args:
        report: of one phase.
        moved: the tensors whose fingerprints differ before and after it.
    """
    if not report.movable:
        return []
    layers: dict[int, set[str]] = {}
    for name, place in report.places.items():
        if place and name in report.movable:
            layers.setdefault(place, set()).add(name)
    followed = [name in moved for name in report.received & report.movable]
    return followed + [bool(names & moved) for names in layers.values()] if followed else [False]


def _beats_majority(run: RunConfig, data: TaskData, outcome: TrainOutcome) -> bool | None:
    accuracy = outcome.last.get(run.task.data_name, {}).get("accuracy")
    if run.task.kind != "classification" or run.protocol.name == "smoke" or accuracy is None:
        return None
    return accuracy > majority_accuracy(data.evals[run.task.data_name])


def trained_layers(model: TaskModel) -> tuple[int, ...]:
    """Return the layers (1-based) that hold a trainable parameter."""
    layers = enumerate(model.backbone.layers, start=1)
    return tuple(number for number, layer in layers if any(p.requires_grad for p in layer.parameters()))


def matches_selection(model: TaskModel, prep: Preparation) -> bool:
    """Whether as many parameters train as the method's decision says, in the layers that it chose."""
    trainable = count(parameter for parameter in model.parameters() if parameter.requires_grad)
    if prep.layers is not None and not prep.added and trained_layers(model) != prep.layers:
        return False
    return trainable == prep.expected_trainable


def _matches(model: TaskModel, prep: Preparation, phases: Sequence[PhaseReport]) -> bool:
    """Whether each phase started with as many trainable parameters as the method says.

    Where the same parameters trained in all steps, the model is also compared with the decision at the end.
    """
    expected = [report.expected for report in phases]
    expected[:1] = [prep.expected_trainable]
    for report, wanted in zip(phases, expected, strict=True):
        if wanted is not None and sum(report.trainable.values()) != wanted:
            return False
    steady = len(phases) == 1 and phases[0].own and phases[0].steady
    return matches_selection(model, prep) if steady else True


def model_record(
    run: RunConfig, tokenizer_key: str, commit: str | None, facts: Mapping[str, Any]
) -> ModelRecord:
    """Return what the record says of the model: which weights were trained, and how many numbers of them.

    Args:
        run: its model says where the weights came from.
        tokenizer_key: sha256 of the tokenizer's content.
        commit: of the hub that was read, for a model that pins none.
        facts: of `parameter_facts` or `measured_facts`.
    """
    local = run.model.path is not None
    return ModelRecord(
        source="local" if local else run.model.source,
        revision=None if local else run.model.revision or commit,
        weights=weights_key(run),
        tokenizer_key=tokenizer_key,
        **facts,
    )


def parameter_facts(model: TaskModel, prep: Preparation) -> dict[str, Any]:
    """Return the record's counts: all parameters, the trainable by place, the unused, the lowest layer."""
    places = places_of(model)
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    return {
        "parameters": count(model.parameters()),
        "trainable": _by_place(model, prep, sizes),
        "unused": count(unused_parameters(model)),
        "lowest_trained_layer": _lowest({name: places[name] for name in sizes}, prep),
        "facts": dict(prep.facts),
    }


def measured_facts(model: TaskModel, prep: Preparation, outcome: TrainOutcome) -> dict[str, Any]:
    """Return the counts of `parameter_facts` as training showed them.

    `trainable` then also holds `at_once`, the most parameters that got a gradient in one step, and `touched`,
    all that got one in any step. The lowest trained layer is the lowest of the whole run.
    """
    phases = outcome.phases
    touched: dict[str, int] = {}
    for report in phases:
        for name, size in report.with_gradient.items():
            touched[name] = max(size, touched.get(name, 0))
    places = {name: place for report in phases for name, place in report.places.items()}
    found = dict(outcome.facts)
    at_once = found.pop("at_once", max(report.at_once for report in phases))
    steps = sum(report.steps for report in phases)
    mean = sum(report.summed for report in phases) / max(1, steps)
    if mean != at_once:
        found.setdefault("mean_trained", mean)
    return parameter_facts(model, prep) | {
        "trainable": _by_place(model, prep, found.pop("sizes", phases[0].trainable))
        | {"at_once": at_once, "touched": found.pop("touched", sum(touched.values()))},
        "lowest_trained_layer": _lowest(places, prep),
        "facts": prep.facts | found,
    }


def _by_place(model: TaskModel, prep: Preparation, sizes: Mapping[str, int]) -> dict[str, int]:
    """Add up sizes of tensors by name: in the backbone, in the head, added by the method."""
    backbone = set(model.backbone.parameters())  # a tied head counts as the embedding it is
    head = {name for name, p in model.named_parameters() if p not in backbone}
    counts = {"backbone": 0, "head": 0, "added": 0}
    for name, size in sizes.items():
        counts["added" if name in prep.added else "head" if name in head else "backbone"] += size
    return counts


def _lowest(places: Mapping[str, int | None], prep: Preparation) -> int | None:
    """Return the lowest trained layer; 0 = something below all layers trains, None = only what is above them.

    What a method added below the layers (a prefix) counts as part of the first layer, on which it acts.
    """
    found = [max(place, int(name in prep.added)) for name, place in places.items() if place is not None]
    return min(found, default=None)
