"""What a method is: it prepares a model (score, select, freeze) and may act between the steps of the loop.

Full fine-tuning and head-only training, the two ends of the scale, live here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from layertune.config import RunConfig
from layertune.config.build import convert
from layertune.errors import ConfigError
from layertune.models.parameters import unused_parameters
from layertune.records.record import SelectionRecord

if TYPE_CHECKING:
    import torch

    from layertune.models import TaskModel
    from layertune.runtime import Runtime
    from layertune.scoring import LayerScores
    from layertune.tasks import TaskData


@dataclass(frozen=True)
class Preparation:
    """What a method decided before training.

    Attributes:
        expected_trainable: how many parameters must be trainable when the first phase has started, counted
            from the decision.
        layers: chosen layers, 1-based and ascending; None where nothing was selected.
        scores: layer scores; None without a scorer.
        reused: the scores were taken from disk.
        added: names of the parameters that the method added to the model.
        facts: further values for the record (`model.facts`).
    """

    expected_trainable: int
    layers: tuple[int, ...] | None = None
    scores: LayerScores | None = None
    reused: bool = False
    added: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    def record(self, run: RunConfig) -> SelectionRecord | None:
        """Return what the record says of the choice of layers; None for methods that choose none."""
        scores = self.scores
        if self.layers is None and scores is None:
            return None
        return SelectionRecord(
            scorer=run.method.scorer,
            selector=run.method.selector,
            scores=None if scores is None else scores.values,
            std=None if scores is None else scores.std,
            matrix=None if scores is None else scores.matrix,
            layers=self.layers,
            examples=0 if scores is None else scores.examples,
            seconds=0.0 if scores is None else scores.seconds,
            reused=self.reused,
        )


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one optimiser; it may begin and end in mid-epoch.

    Attributes:
        steps: optimiser steps, at least 1.
        restart_schedule: the learning rate starts anew here, for this phase and those after it up to the
            next restart; otherwise one schedule spans all phases.
    """

    steps: int
    restart_schedule: bool = False


class Method:
    """Base of all methods: a subclass overrides `prepare` and the hooks it needs; the loop calls all.

    The loop calls, in this order: `epochs`, `phases`; for each phase `start_phase`, `optimised`,
    `optimizer_ready`, its steps (`before_step`, `after_backward`, `after_step`), the evaluation if it ends
    with an epoch (`eval_model`), `end_phase`; at the end `facts`.
    """

    def __init__(self, run: RunConfig) -> None:
        self.run = run
        self.spec = run.method

    def option(self, name: str, kind: Any) -> Any:
        """Return an option whose value in the YAML is null, so that only the method knows its type.

        Raises:
            ConfigError: the value is neither null nor of this type.
        """
        return convert(kind | None, self.spec.options.get(name), f"method.{name}")

    def value(self, name: str, kind: Any) -> Any:
        """Return an option that must have a value.

        Args:
            name: of the option.
            kind: its type and range, such as `Count` or `Share` of `layertune.config.schema`.

        Raises:
            ConfigError: the value is not of this type, or out of its range.
        """
        return convert(kind, self.spec.options.get(name), f"method.{name}")

    def prepare(self, model: TaskModel, data: TaskData, runtime: Runtime) -> Preparation:
        """Decide what is trained and set `requires_grad` accordingly."""
        raise NotImplementedError

    def epochs(self, epochs: int) -> int:
        """Return how many epochs are trained where the configuration says `epochs`."""
        return epochs

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Cut the run into phases whose steps sum to `total_steps` (untimed warm-up steps not included)."""
        return (Phase(total_steps),)

    def start_phase(self, model: TaskModel, phase: int) -> TaskModel:
        """Set `requires_grad` for a phase (counted from 0) and return the model that is trained in it."""
        return model

    def optimised(self, model: TaskModel) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what a phase's optimiser holds, by name: all that may train before the phase ends."""
        return optimised(model)

    def optimizer_ready(self, optimizer: torch.optim.Optimizer, phase: int) -> None:
        """Act on a phase's new optimiser; also when a run is resumed, before its saved state is put in."""

    def end_phase(self, model: TaskModel, optimizer: torch.optim.Optimizer, phase: int) -> None:
        """Act after the last step of a phase on the model that was trained in it."""

    def expected_in_phase(self, phase: int) -> int | None:
        """Return how many parameters must require a gradient when a phase has started; None = not said.

        The first phase is held against `Preparation.expected_trainable` in any case.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and numbers from which an interrupted run goes on; called between steps.

        They may lie in dictionaries, lists, tuples and sets, with text and None among them.
        """
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""

    def resume_phase(self, model: TaskModel, phase: int) -> TaskModel:
        """Return the model of a phase in progress, after `load_state_dict`; its trained values follow."""
        return self.start_phase(model, phase)

    def facts(self) -> dict[str, Any]:
        """Return what became known in training, for the record.

        `at_once` and `touched` stand in for the loop's own counts of trained parameters, where whole tensors
        are too coarse a measure; `sizes` does for those of each tensor, by name, in the first phase.
        """
        return {}

    def on_epoch_start(self, model: TaskModel, epoch: int) -> None:
        """Act before the first step of an epoch (1-based)."""

    def before_step(self, model: TaskModel, step: int) -> None:
        """Act before the forward pass of an optimiser step (1-based, over the whole run)."""

    def after_backward(self, model: TaskModel, step: int) -> None:
        """Act on the gradients of a step."""

    def after_step(self, model: TaskModel, step: int) -> None:
        """Act on the updated parameters of a step."""

    def eval_model(self, model: TaskModel) -> TaskModel:
        """Return the model that is evaluated, given the one that is being trained."""
        return model

    def structure(self) -> Any:
        """Return, in JSON's types, what beside the configuration says how the model in training is built."""
        return None

    def rebuilt(self, model: TaskModel, structure: Any) -> TaskModel:
        """Return a model of the structure that was evaluated; its weights are put in later.

        Args:
            model: as `build_model` returns it.
            structure: what `structure` returned then.
        """
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


def train_all(model: TaskModel) -> int:
    """Unfreeze all that a forward pass reads; return how many parameters that is."""
    model.requires_grad_(True)
    unused = unused_parameters(model)
    for parameter in unused:
        parameter.requires_grad_(False)
    return count(model.parameters()) - count(unused)


def head_parts(model: TaskModel, train_final_norm: bool = False) -> list[nn.Module]:
    """Return what partial methods train besides their choice: the task head; for generation nothing.

    Paper: §3.2; the language model's head stays frozen, and with it the input embedding it may be tied to.

    Args:
        model: the model of the run.
        train_final_norm: generation: train the final norm too, as the released code does.
    """
    if model.kind != "generation":
        return [model.head]
    norm = model.backbone.final_norm
    return [norm] if train_final_norm and norm is not None else []


def moves(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether an optimiser's next step can move anything: that at rate zero, which opens a warm-up,
    cannot.
    """
    return any(group["lr"] > 0 for group in optimizer.param_groups)


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
    """Only the classification head is trained.

    Raises:
        ConfigError: the task generates text: its head is the language model's own and stays frozen.
    """

    def __init__(self, run: RunConfig) -> None:
        super().__init__(run)
        if run.task.kind == "generation":
            raise ConfigError(
                f"method={self.spec.name} trains nothing on task={run.task.name}: in generation the language "
                "model's own head stays frozen. Choose another method, for example top_k."
            )

    def prepare(self, model: TaskModel, data: TaskData, runtime: Runtime) -> Preparation:
        """Freeze the backbone."""
        return Preparation(expected_trainable=train_only(model, head_parts(model)))
