"""Proof that a method did what it says: what had to stay stayed, and what had to move moved."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import torch

from layertune.config import RunConfig
from layertune.evaluation.evaluate import majority_accuracy
from layertune.methods import Preparation, count, unused_parameters
from layertune.records.record import ChecksRecord
from layertune.tasks import TaskData

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.training.loop import TrainOutcome


class Engagement:
    """Fingerprints of all parameters, taken after `prepare` and compared after training."""

    def __init__(self, model: TaskModel) -> None:
        self.before = _digests(model)
        self.frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}

    def check(
        self, run: RunConfig, model: TaskModel, data: TaskData, prep: Preparation, outcome: TrainOutcome
    ) -> ChecksRecord:
        """Return the checks of a finished training.

        `frozen_unchanged` covers what was frozen before and after, bit for bit; `trained_changed` the tensors
        that were trainable throughout and received a gradient, and at least one tensor of every layer with
        such tensors: a layer that the optimiser never held has no gradient to show.
        """
        after = _digests(model)
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        frozen = self.frozen - trainable
        throughout = trainable - self.frozen
        trained = throughout & outcome.received_gradient
        moved = {name for name in throughout if after[name] != self.before[name]}
        all_layers_moved = all(names & moved for names in _by_layer(model, throughout))
        return ChecksRecord(
            frozen_unchanged=all(after[name] == self.before[name] for name in frozen) if frozen else None,
            trained_changed=bool(trained) and trained <= moved and all_layers_moved,
            loss_finite=outcome.loss_finite,
            trainable_matches_selection=matches_selection(model, prep),
            beats_majority=_beats_majority(run, data, outcome),
        )


def _by_layer(model: TaskModel, names: set[str]) -> list[set[str]]:
    """Group those of the named parameters that lie in layers by their layer."""
    of = {parameter: name for name, parameter in model.named_parameters() if name in names}
    layers = [{of[p] for p in layer.parameters() if p in of} for layer in model.backbone.layers]
    return [layer for layer in layers if layer]


def _digests(model: TaskModel) -> dict[str, str]:
    return {
        name: hashlib.sha256(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy()).hexdigest()
        for name, parameter in model.named_parameters()
    }


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
    """Whether the trainable count follows from the decision, and the trained layers are the chosen ones."""
    trainable = count(parameter for parameter in model.parameters() if parameter.requires_grad)
    if prep.layers is not None and not prep.added and trained_layers(model) != prep.layers:
        return False
    return trainable == prep.expected_trainable


def parameter_facts(model: TaskModel, prep: Preparation) -> dict[str, Any]:
    """Return the record's counts: all parameters, the trainable by place, the unused, the lowest layer."""
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    head = set(model.head.parameters())
    added = {names[name] for name in prep.added if name in names}
    backbone = set(names.values()) - head - added
    embeddings = backbone - {p for layer in model.backbone.layers for p in layer.parameters()}
    layers = trained_layers(model)
    below = bool(embeddings - unused_parameters(model) - set(_final_norm(model)))
    return {
        "parameters": count(model.parameters()),
        "trainable": {
            "backbone": count(backbone),
            "head": count(head & set(names.values())),
            "added": count(added),
        },
        "unused": count(unused_parameters(model)),
        "lowest_trained_layer": 0 if below else (layers[0] if layers else None),
    }


def _final_norm(model: TaskModel) -> list[torch.nn.Parameter]:
    norm = model.backbone.final_norm
    return [] if norm is None else list(norm.parameters())
