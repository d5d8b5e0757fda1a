"""What a scorer returns, and the running statistics all scorers share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layertune.errors import ScoreError

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.tasks import Batch


Each = Callable[[Tensor], None]  # is given the terms of a batch, [B, L]; their means decide the order


@dataclass(frozen=True)
class LayerScores:
    """One score per layer, layer 1 first.

    Attributes:
        values: [L], the mean.
        std: [L], population standard deviation of the terms the mean was taken over: examples for the
            similarities and the Fisher score, dimensions for the feature variance, weight matrices for the
            spectrum; zeros for the gradient norm, the weight norm and CKA, which are no means.
        matrix: [L][L] mean similarity of each pair of layers, ones (cosine) or zeros (Euclidean) on the
        diagonal;
            None for scores that compare no layers.
        examples: how many examples were read; 0 where weights alone are.
        seconds: wall-clock time of the scoring pass.
    """

    values: tuple[float, ...]
    std: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...] | None
    examples: int
    seconds: float


class RunningStatistics:
    """Running mean and variance of rows, merged batch by batch in float64 (Welford; Chan et al.)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def update(self, rows: Tensor) -> None:
        """Add rows [n, ...]; each is one term of the mean."""
        rows = rows.double()
        n = rows.shape[0]
        mean = rows.mean(0)
        delta = mean - self._mean
        total = self.count + n
        self._squares = (
            self._squares + (rows - mean).square().sum(0) + delta.square() * (self.count * n / total)
        )
        self._mean = self._mean + delta * (n / total)
        self.count = total

    @property
    def mean(self) -> Tensor:
        """Mean of the rows, [...]."""
        return torch.as_tensor(self._mean)

    @property
    def variance(self) -> Tensor:
        """Population variance of the rows (ddof 0), [...]."""
        return torch.as_tensor(self._squares) / self.count


def batches_on(model: TaskModel, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches on the model's device.

    Raises:
        ScoreError: there is none.
    """
    empty = True
    for batch in batches:
        empty = False
        yield batch.to(model.device)
    if empty:
        raise ScoreError("no example to score the layers on: the data are empty.")


def layer_parameters(model: TaskModel) -> list[list[nn.Parameter]]:
    """Return the parameters of each layer, layer 1 first.

    Raises:
        ScoreError: some are not in memory or not in floating point.
    """
    layers = [list(layer.parameters()) for layer in model.backbone.layers]
    weights = [weight for layer in layers for weight in layer]
    if odd := [weight for weight in weights if weight.is_meta or not weight.is_floating_point()]:
        raise ScoreError(
            f"the score reads weights, or their gradients, in memory and in floating point; some here are "
            f"{odd[0].dtype} on {odd[0].device}: load the model unquantised, on one device."
        )
    return layers


def sums_of_squares(tensors: Sequence[Tensor | None], layers: Sequence[Sequence[object]]) -> Tensor:
    """Sum the squares of each layer's tensors, [L], in float64; None counts as zero.

    Args:
        tensors: one per parameter, in the order of the layers.
        layers: the parameters of each layer.
    """
    device = next(tensor.device for tensor in tensors if tensor is not None)
    nothing = torch.zeros((), dtype=torch.float64, device=device)
    squares = [nothing if tensor is None else tensor.double().square().sum() for tensor in tensors]
    return torch.stack([part.sum() for part in torch.stack(squares).split([len(layer) for layer in layers])])


def finished(
    scorer: str, started: float, examples: int, values: Tensor, std: Tensor, matrix: Tensor | None = None
) -> LayerScores:
    """Turn tensors into LayerScores.

    Args:
        scorer: its name, for messages.
        started: when it began, of `time.perf_counter`.
        examples: how many were read.
        values: [L].
        std: [L].
        matrix: [L, L].

    Raises:
        ScoreError: a layer's score is not a finite number.
    """
    numbers: list[float] = values.tolist()
    # One bad layer spoils its similarity to all others; its similarity to itself tells which one it is.
    own: list[float] = numbers if matrix is None else matrix.diagonal().tolist()
    for layer, (number, itself) in enumerate(zip(numbers, own, strict=True), start=1):
        if not math.isfinite(itself):
            raise ScoreError(
                f"the {scorer} score of layer {layer} is {number}: the model's states, gradients or weights "
                "there are not finite or all zero; check the weights, or score in fp32."
            )
    rows: Sequence[Any] | None = None if matrix is None else matrix.tolist()
    return LayerScores(
        values=tuple(numbers),
        std=tuple(std.tolist()),
        matrix=None if rows is None else tuple(tuple(row) for row in rows),
        examples=examples,
        seconds=time.perf_counter() - started,
    )
