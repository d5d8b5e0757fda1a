"""CUDA graphs of a step's forward and backward pass, one per shape of batch (train=fast on a CUDA device).

At batch 16 and a few dozen tokens a step is bound by the launch of its hundreds of kernels; a graph is
launched once. Clipping and the fused optimiser follow outside, a handful of kernels: the learning rate
changes from step to step. Dropout draws anew in every replay: the device's generator is registered with each
graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from layertune.tasks import Batch

log = logging.getLogger(__name__)

MOST_SHAPES = 64  # of one run; batches of further shapes run without a graph
_WARM_UP = 3  # runs before a capture: libraries choose their algorithms and workspaces

Gradient = Callable[[Batch, float], Tensor]  # runs forward and backward on a batch; returns the loss


class Recorder(Protocol):
    """What makes a graph of a function, on a device or in a test."""

    def record(self, function: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        """Return the tensors that the function returned, and a replay that computes them anew in place."""


class CudaRecorder:
    """Captures on the current CUDA device; all graphs share one pool of memory, for one runs at a time.

    Warming up draws no dropout that a run without a capture would not draw: a resumed run captures anew.
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        """Warm up on a side stream, then capture."""
        generator = torch.cuda.get_rng_state()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    function()
        finally:
            torch.cuda.current_stream().wait_stream(side)
            torch.cuda.set_rng_state(generator)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            outputs = function()
        return outputs, graph.replay


@dataclass(frozen=True)
class _Graph:
    """A recorded step: what it reads, what it leaves behind, which parameters got a gradient."""

    batch: Batch
    loss: Tensor
    received: list[nn.Parameter]
    replay: Callable[[], None]


class StepGraphs:
    """Runs forward and backward passes by graphs; all of them leave their gradients in the same tensors.

    Args:
        gradient: the pass without a graph.
        parameters: what may receive a gradient.
        recorder: makes the graphs.
    """

    def __init__(self, gradient: Gradient, parameters: Iterable[nn.Parameter], recorder: Recorder) -> None:
        self.gradient, self.parameters, self.recorder = gradient, list(parameters), recorder
        self.graphs: dict[object, _Graph] = {}
        self.gradients: dict[nn.Parameter, Tensor] = {}
        self.fallen_back: str | None = None

    def __call__(self, batch: Batch, share: float) -> Tensor:
        """Leave the gradients of a batch in the parameters; return its loss."""
        key = share, tuple((tuple(t.shape), t.dtype) for t in _tensors(batch))
        if key not in self.graphs and (self.fallen_back or len(self.graphs) >= MOST_SHAPES):
            return self.gradient(batch, share)
        if key not in self.graphs:
            try:
                self.graphs[key] = self._record(batch, share)
            except RuntimeError as error:
                self.fallen_back = str(error).strip().partition("\n")[0]
                log.warning("CUDA graphs: not used any more (%s)", self.fallen_back)
                for parameter in self.parameters:
                    parameter.grad = None
                return self.gradient(batch, share)
        graph = self.graphs[key]
        for kept, new in zip(_tensors(graph.batch), _tensors(batch), strict=True):
            kept.copy_(new, non_blocking=True)
        graph.replay()
        for parameter in graph.received:
            parameter.grad = self.gradients[parameter]
        return graph.loss.clone()

    def _record(self, batch: Batch, share: float) -> _Graph:
        kept = _copied(batch)
        received: list[nn.Parameter] = []
        for parameter in self.parameters:  # made outside the capture: no graph owns them
            if parameter not in self.gradients:
                self.gradients[parameter] = torch.empty_like(parameter)

        def step() -> list[Tensor]:
            for parameter in self.parameters:
                parameter.grad = None
            loss = self.gradient(kept, share)
            fresh = {parameter: parameter.grad for parameter in self.parameters if parameter.grad is not None}
            received[:] = fresh
            torch._foreach_copy_([self.gradients[parameter] for parameter in received], list(fresh.values()))
            for parameter in received:
                parameter.grad = None
            return [loss.detach()]

        (loss,), replay = self.recorder.record(step)
        log.debug("CUDA graphs: captured a step on %s", tuple(batch.input_ids.shape))
        return _Graph(kept, loss, received, replay)


def why_no_graphs(device: torch.device, *, kind: str, parts: bool, steady: bool) -> str | None:
    """Say why steps are not captured; None where they are.

    Args:
        device: where the model computes.
        kind: of the task.
        parts: whether batches are split into micro-batches.
        steady: whether the same tensors train in all steps.
    """
    reasons = {
        "no CUDA device": device.type != "cuda",
        "the number of learnt tokens changes from batch to batch": kind == "generation",
        "batches are split into micro-batches": parts,
        "what is trained changes on the way": not steady,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _tensors(batch: Batch) -> Sequence[Tensor]:
    lower = batch.lower
    optional = [batch.segment_ids, *((lower.states, lower.representatives) if lower else ())]
    found = [tensor for tensor in optional if tensor is not None]
    return [batch.input_ids, batch.attention_mask, batch.labels, *found]


def _copied(batch: Batch) -> Batch:
    def copy(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.clone()

    lower = batch.lower
    if lower is not None:
        lower = replace(lower, states=copy(lower.states), representatives=copy(lower.representatives))
    return replace(
        batch,
        input_ids=batch.input_ids.clone(),
        attention_mask=batch.attention_mask.clone(),
        labels=batch.labels.clone(),
        segment_ids=copy(batch.segment_ids),
        lower=lower,
    )
