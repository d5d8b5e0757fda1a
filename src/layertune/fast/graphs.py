"""CUDA graphs of a step's forward and backward pass, one for each shape of batch.

With 16 short texts in a batch, most of a step's time goes into launching its hundreds of kernels; a graph of
them is launched once. Clipping and the optimiser stay outside the graph: they are a handful of kernels, and
the learning rate changes from step to step. Dropout draws new numbers in every replay, because the device's
generator is registered with each graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import transformers
from torch import Tensor, nn

from layertune.config import TrainSpec
from layertune.errors import CaptureError, message_of, with_causes
from layertune.models import TaskModel
from layertune.tasks import Batch

log = logging.getLogger(__name__)

MOST_SHAPES = 64  # of one run; batches of further shapes run without a graph
_MASKS_ON_DEVICE = (5, 23)  # of transformers: the first that is known to make all masks on the device
_WARM_UP = 3  # runs before a capture: libraries choose their algorithms and workspaces

Gradient = Callable[[Batch, float], Tensor]  # runs forward and backward on a batch; returns the loss


class Recorder(Protocol):
    """Records a function so that it can be repeated: as a CUDA graph, or in a test without a device."""

    def record(self, function: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        """Return the tensors that the function returned, and a replay that computes them anew in place."""


class CudaRecorder:
    """Captures graphs on the current CUDA device. They share one pool of memory, as one of them runs at a
    time.

    Warming up leaves the random generator as it was: a run that is resumed captures anew, and must go on with
    the dropout of a run that was not interrupted.
    """

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, function: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
        """Run the function a few times on a stream of its own, then capture it.

        Raises:
            RuntimeError: the function cannot be captured, and the device is as it was before.
            CaptureError: the function cannot be captured, and the device cannot go on.
        """
        generator, stream = (
            torch.cuda.default_generators[torch.cuda.current_device()],
            torch.cuda.current_stream(),
        )
        before = generator.clone_state()
        side = torch.cuda.Stream()
        side.wait_stream(stream)
        try:
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    function()
        finally:
            stream.wait_stream(side)
            generator.set_state(before.get_state())
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool):
                outputs = function()
        except RuntimeError as error:
            _take_back(stream, generator, before, error)
            raise
        return outputs, graph.replay


def _take_back(
    stream: torch.cuda.Stream, generator: torch.Generator, before: torch.Generator, error: RuntimeError
) -> None:
    """Bring the device back to where it was before a capture that failed, and try whether it works.

    After a failure torch leaves the capture's stream as the current one, and up to 2.11 the generator refuses
    to draw. It is therefore given the state of another generator, which knows of no capture.

    Raises:
        CaptureError: the device does not work any more.
    """
    drawn = before.get_state()
    try:
        torch.cuda.set_stream(stream)
        torch.cuda.synchronize()
        generator.graphsafe_set_state(before)
        torch.empty(1, device="cuda").uniform_()
        torch.cuda.synchronize()
        generator.set_state(drawn)
    except RuntimeError as lasting:
        raise CaptureError(
            f"a CUDA graph of a step failed ({_reason(error)}) and the device cannot go on "
            f"({message_of(lasting)}): say train.graphs=off."
        ) from error


def _reason(error: RuntimeError) -> str:
    """Return what made a capture fail: the first of its errors, as ending the capture raises a second one."""
    return str(with_causes(error)[-1]).strip().partition("\n")[0]


@dataclass(frozen=True)
class _Graph:
    """A recorded step: what it reads, what it leaves behind, which parameters got a gradient."""

    batch: Batch
    loss: Tensor
    received: list[nn.Parameter]
    replay: Callable[[], None]


class StepGraphs:
    """Runs forward and backward passes as graphs, all of which leave their gradients in the same tensors.

    Args:
        gradient: runs such a pass without a graph.
        parameters: what may receive a gradient.
        recorder: makes the graphs.
        device: where the pass runs; batches may come from elsewhere.

    Attributes:
        fallen_back: why steps run without graphs since a capture failed; None while they do not.
    """

    def __init__(
        self,
        gradient: Gradient,
        parameters: Iterable[nn.Parameter],
        recorder: Recorder,
        device: torch.device | str = "cpu",
    ) -> None:
        self.gradient, self.parameters, self.recorder = gradient, list(parameters), recorder
        self.device = device
        self.graphs: dict[object, _Graph] = {}
        self.gradients: dict[nn.Parameter, Tensor] = {}
        self.fallen_back: str | None = None

    def __call__(self, batch: Batch, share: float) -> Tensor:
        """Leave the gradients of a batch in the parameters; return its loss."""
        key = share, tuple((tuple(t.shape), t.dtype) for t in batch.tensors())
        if key not in self.graphs and (self.fallen_back or len(self.graphs) >= MOST_SHAPES):
            return self.gradient(batch.to(self.device), share)
        if key not in self.graphs:
            try:
                self.graphs[key] = self._record(batch, share)
            except RuntimeError as error:
                self.fallen_back = _reason(error)
                log.warning("CUDA graphs: not used any more (%s)", self.fallen_back)
                self.graphs.clear()  # they draw from a state of the generator that nobody counts on any more
                for parameter in self.parameters:
                    parameter.grad = None
                return self.gradient(batch.to(self.device), share)
        graph = self.graphs[key]
        for kept, new in zip(graph.batch.tensors(), batch.tensors(), strict=True):
            kept.copy_(new, non_blocking=True)
        graph.replay()
        for parameter in graph.received:
            parameter.grad = self.gradients[parameter]
        return graph.loss.clone()

    def _record(self, batch: Batch, share: float) -> _Graph:
        kept = batch.copied(self.device)
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


def why_no_graphs(model: TaskModel, train: TrainSpec, steady: bool) -> str | None:
    """Say why steps on a CUDA device are not captured; None where they are.

    A graph repeats exactly what ran when it was captured. A step that decides by the values it computes, or
    copies from the host, cannot be captured.

    Args:
        model: that is trained.
        train: how it is trained.
        steady: whether the same tensors train in all steps.
    """
    attention, release = model.backbone.model.config._attn_implementation, transformers.__version__
    copies = attention == "eager" and tuple(map(int, release.split(".")[:2])) < _MASKS_ON_DEVICE
    reasons = {
        "train.graphs=off": train.graphs == "off",
        "the number of learnt tokens changes from batch to batch": model.kind == "generation",
        "batches are split into micro-batches": train.micro_batch is not None,
        "what is trained changes on the way": not steady,
        "activations are recomputed, for which the state of the random numbers is read": (
            train.activation_checkpointing
        ),
        f"transformers {release} copies the masks of eager attention to the device": copies,
        "which mask the library makes depends on the batch": (
            attention != "eager" and model.backbone.sees is None
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
