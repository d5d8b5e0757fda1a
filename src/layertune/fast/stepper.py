"""How the loop takes a step: under `train=published`, and under `train=fast`.

What `fast` means is the same for every method: the frozen modules below the lowest trained parameter run
without dropout, so that they always give the same states. Where a method trains the embeddings nothing lies
below, and `fast` trains as `published` does.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layertune.config import RunConfig
from layertune.fast.cache import Opening, PrefixSource, choose_place, why_no_cache
from layertune.fast.frozen import copies_bytes, hold_frozen, release_frozen
from layertune.fast.graphs import CudaRecorder, StepGraphs, why_no_graphs
from layertune.fast.last_layer import OneToken, why_not_one_token
from layertune.fast.masks import use_byte_masks, use_own_masks
from layertune.methods import Method
from layertune.models.parameters import places_of
from layertune.records.record import CacheRecord
from layertune.tasks import Batch, TaskData

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.runtime import Runtime
    from layertune.training.phases import Phases

log = logging.getLogger(__name__)


class PlainStepper:
    """Runs the whole model, forward and backward, on the tokens of a batch.

    On a CUDA device the steps are captured as graphs where the method does not act between them, and under
    bf16 the frozen weights are held in that precision. Neither changes what is computed.

    Args:
        run: how to train.
        data: holds the training split.
        runtime: device and precision.

    Attributes:
        cost: what a cache cost, for the record; this stepper has none.
        graphs: what the record says about CUDA graphs: captured, or why not; None on a CPU.
    """

    def __init__(self, run: RunConfig, data: TaskData, runtime: Runtime) -> None:
        self.run, self.data, self.runtime = run, data, runtime
        self.cost = CacheRecord()
        self.graphs: str | None = None
        self._phase: int | None = None
        self._model: TaskModel
        self._graphs: StepGraphs | None = None

    def follow(self, phases: Phases, new_epoch: bool = False) -> None:
        """Take up the model of the phase in progress. The loop calls this before every step.

        Args:
            phases: those of the run.
            new_epoch: an epoch begins, for which the loop has switched dropout on in the whole model.
        """
        if self._phase == phases.index:
            return
        self._phase, self._model = phases.index, phases.trained
        if _is_steady(phases) and holds_frozen(self._model, self.runtime):
            hold_frozen(self._model)
        self._graphs = self._capturing(phases)

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the examples at these row numbers."""
        return self.data.train.store.batch(rows, self.runtime.multiple)

    def gradient(self, batch: Batch, share: float) -> Tensor:
        """Leave the gradients of a batch in the parameters.

        Args:
            batch: a whole batch, or a part of one.
            share: of the part in the mean loss of the batch.

        Returns:
            The loss times its share, on the device.
        """
        if self._graphs is None:
            return self._eager(batch.to(self.runtime.device), share)
        loss = self._graphs(batch.pinned(), share)
        failure = self._graphs.fallen_back
        self.graphs = "captured" if failure is None else f"given up: {failure}"
        return loss

    def _eager(self, batch: Batch, share: float) -> Tensor:
        return self.runtime.gradient(self._model, batch, share)

    def _capturing(self, phases: Phases) -> StepGraphs | None:
        device = self.runtime.device
        if device.type != "cuda":
            return None
        self.graphs = why_no_graphs(self._model, self.run.train, _is_steady(phases))
        if self.graphs is not None:
            log.info("CUDA graphs: not used (%s)", self.graphs)
            return None
        return StepGraphs(self._eager, phases.held.values(), CudaRecorder(), device)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the cost of a cache, which a run that is resumed at its end no
        longer opens.
        """
        return dataclasses.asdict(self.cost)

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.cost = CacheRecord(**state)

    def close(self, model: TaskModel) -> None:
        """Leave the model as it was; give back the device's memory that graphs and bf16 copies hold."""
        release_frozen(model)
        self._graphs = None


class FastStepper(PlainStepper):
    """Leaves out of a step what the choice of layers makes superfluous.

    That is the dropout below the lowest trained layer; the layers there, where a cache can give their states;
    and most of the last layer, where a head reads one token of it.
    """

    _source: PrefixSource | None = None

    def follow(self, phases: Phases, new_epoch: bool = False) -> None:
        """Switch dropout off below the lowest trained layer; open the cache, or make it, before the first
        step.
        """
        if phases.index == self._phase and not new_epoch:
            return
        model = phases.trained
        lowest = lowest_trained(model, phases.held)
        if not new_epoch:  # in mid-epoch: what is trained now may have lain below in the phase before
            model.train()
        quiet_below(model, lowest)
        if self._phase is None:
            self._source = self._open(model, lowest, len(phases.plan), phases.own)
        bytes_kept = lowest > 0 and self.runtime.device.type == "cpu"
        (use_byte_masks if bytes_kept else use_own_masks)(model)
        if self._phase != phases.index:
            _shorten(model, lowest)
        super().follow(phases, new_epoch)

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the examples at these row numbers, with the states that the cache holds of them."""
        return (
            super().batch(rows) if self._source is None else self._source.batch(rows, self.runtime.multiple)
        )

    def close(self, model: TaskModel) -> None:
        """Leave the model as it was; give back the memory of the cache too."""
        super().close(model)
        model.backbone.last_block = None
        use_own_masks(model)
        self._source = None

    def _open(self, model: TaskModel, lowest: int, num_phases: int, own: bool) -> PrefixSource | None:
        """Return the cache of the layers below, or None; why there is none is logged and recorded."""
        asked = self.run.cache.layer
        layer = lowest if asked is None else min(asked, lowest)
        reason = why_no_cache(model, layer, num_phases, own)
        if reason is not None:
            log.info("prefix cache: not used (%s)", reason)
            self.cost = CacheRecord(reason=reason)
            return None
        source, self.cost = Opening(self.run, self.data, self.runtime, model, layer).open()
        return source


def _shorten(model: TaskModel, lowest: int) -> None:
    """Let the last layer run for the representative token alone, where that gives the same result."""
    reason = "nothing lies below the lowest trained parameter" if lowest == 0 else None
    if model.kind == "generation":
        reason = "the loss reads all tokens"
    reason = reason or why_not_one_token(model.backbone)
    log.info("last layer: %s", f"all tokens ({reason})" if reason else "the representative token alone")
    model.backbone.last_block = OneToken if reason is None else None


def holds_frozen(model: TaskModel, runtime: Runtime) -> bool:
    """Whether frozen weights are held in bf16.

    They are on a CUDA device that has room for the copies: there each cast would be one more kernel to
    launch.
    """
    if runtime.precision != "bf16" or runtime.device.type != "cuda":
        return False
    return choose_place(copies_bytes(model), runtime.device)[0] == "device"


def _is_steady(phases: Phases) -> bool:
    """Whether the same tensors train in all steps, and the method does nothing between the steps."""
    return len(phases.plan) == 1 and is_steady(type(phases.method))


def is_steady(method: type[Method]) -> bool:
    """Whether a method has no hook within an epoch: one could change what trains without a graph noticing."""
    hooks = ("on_epoch_start", "before_step", "after_backward", "after_step")
    return all(getattr(method, hook) is getattr(Method, hook) for hook in hooks)


def lowest_trained(model: TaskModel, held: object) -> int:
    """Return the lowest layer with a parameter that may train.

    It is 0 where something below the layers may (the embeddings), and L + 1 where only the head may.

    Args:
        model: that is trained.
        held: names of the parameters that the optimiser holds.
    """
    places = places_of(model)
    found = [place for name, place in places.items() if name in held and place is not None]
    return min(found, default=model.backbone.num_layers + 1)


def quiet_below(model: TaskModel, lowest: int) -> None:
    """Switch dropout off in the embeddings and in all layers below a given one; nowhere where that is 0."""
    if lowest == 0:
        return
    backbone = model.backbone
    above = {module for layer in backbone.layers[lowest - 1 :] for module in layer.modules()}
    for module in backbone.model.modules():
        if module not in above:
            module.training = False
