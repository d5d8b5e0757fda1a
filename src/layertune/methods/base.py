"""What a method is: it prepares a model (score, select, freeze) and may act between the steps of the loop.

Full fine-tuning and head-only training, the two ends of the scale, live here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from layertune.config import RunConfig

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.scoring import LayerScores
    from layertune.tasks import TaskData
    from layertune.training.runtime import Runtime


@dataclass(frozen=True)
class Preparation:
    """What a method decided before training.

    Attributes:
        expected_trainable: how many parameters must be trainable, counted from the decision.
        layers: chosen layers, 1-based and ascending; None where nothing was selected.
        scores: layer scores; None without a scorer.
        reused: the scores were taken from disk.
        added: names of the parameters that the method added to the model.
        facts: further values for the record.
    """

    expected_trainable: int
    layers: tuple[int, ...] | None = None
    scores: LayerScores | None = None
    reused: bool = False
    added: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


class Method:
    """Base of all methods: a subclass overrides `prepare` and the hooks it needs; the loop calls all."""

    def __init__(self, run: RunConfig) -> None:
        self.run = run
        self.spec = run.method

    def prepare(self, model: TaskModel, data: TaskData, runtime: Runtime) -> Preparation:
        """Decide what is trained and set `requires_grad` accordingly."""
        raise NotImplementedError

    def on_epoch_start(self, model: TaskModel, epoch: int) -> None:
        """Act before the first step of an epoch (1-based)."""

    def before_step(self, model: TaskModel, step: int) -> None:
        """Act before the forward pass of an optimiser step (1-based, over the whole run)."""

    def after_backward(self, model: TaskModel, step: int) -> None:
        """Act on the gradients of a step."""

    def after_step(self, model: TaskModel, step: int) -> None:
        """Act on the updated parameters of a step."""

    def eval_model(self, model: TaskModel) -> TaskModel:
        """Return the model that is evaluated."""
        return model


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Count the numbers in a collection of parameters, each parameter once."""
    return sum(parameter.numel() for parameter in set(parameters))


def train_only(model: nn.Module, parts: Iterable[nn.Module]) -> int:
    """Freeze a model except for some of its parts; return how many parameters those parts hold."""
    model.requires_grad_(False)
    chosen = {parameter for part in parts for parameter in part.parameters()}
    for parameter in chosen:
        parameter.requires_grad_(True)
    return count(chosen)


def unused_parameters(model: TaskModel) -> set[nn.Parameter]:
    """Return parameters that no forward pass reads: a pooler, or a final norm that `raw` bypasses."""
    backbone = model.backbone
    parts = [backbone.pooler]
    if backbone.last_layer == "raw" and model.kind != "generation":
        parts.append(backbone.final_norm)
    return {parameter for part in parts if part is not None for parameter in part.parameters()}


def optimised(model: TaskModel) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters an optimiser holds, by name: trainable, and part of the computation.

    An unused pooler counts as trainable, as in the paper's 116.6 M, and is never updated.
    """
    unused = unused_parameters(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter not in unused:
            yield name, parameter


class Full(Method):
    """Full fine-tuning: every parameter, embeddings and head included."""

    def prepare(self, model: TaskModel, data: TaskData, runtime: Runtime) -> Preparation:
        """Unfreeze everything."""
        model.requires_grad_(True)
        return Preparation(expected_trainable=count(model.parameters()))


class HeadOnly(Method):
    """Only the classification head is trained."""

    def prepare(self, model: TaskModel, data: TaskData, runtime: Runtime) -> Preparation:
        """Freeze the backbone."""
        return Preparation(expected_trainable=train_only(model, [model.head]))
