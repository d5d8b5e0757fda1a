"""What stands on the backbone: the paper's concatenation head (§3.2, §4.3) and the standard pooled head.

Both take the representative vectors of all layers, [B, L, H], and return [B, C]. Generation uses the
language model's own head, untouched (`layertune.models.task_model`).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def rms_normalised(vectors: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale each vector to a root mean square of one, without parameters (`model.rep_norm: rms`)."""
    return vectors * torch.rsqrt(vectors.square().mean(-1, keepdim=True) + eps)


class ConcatHead(nn.Module):
    """Concatenate the vectors of all layers -> dropout -> Linear(L·H, H) -> ReLU -> Linear(H, C).

    Paper: §4.3; dropout 0.3; 7,080,194 parameters for L = 12, H = 768, C = 2.
    """

    def __init__(
        self, num_layers: int, hidden_size: int, num_outputs: int, dropout: float, rms: bool = False
    ):
        super().__init__()
        self.rms = rms
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(num_layers * hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, num_outputs)

    def forward(self, representatives: Tensor) -> Tensor:
        """Map [B, L, H] to [B, C]."""
        vectors = rms_normalised(representatives) if self.rms else representatives
        return self.out(torch.relu(self.project(self.dropout(vectors.flatten(1)))))


class PooledHead(nn.Module):
    """The standard classifier on the last layer's vector: Linear(H, H) -> tanh -> dropout -> Linear(H, C).

    Used by `elsa` (Lee et al. 2019). Choice: [pooled head (not the paper's)] the dense + tanh layer is BERT's
    pooler, freshly initialised for every model: only BERT comes with a pretrained one, and a comparison
    across models should not depend on that.
    """

    def __init__(self, hidden_size: int, num_outputs: int, dropout: float, rms: bool = False) -> None:
        super().__init__()
        self.rms = rms
        self.project = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden_size, num_outputs)

    def forward(self, representatives: Tensor) -> Tensor:
        """Map [B, L, H] to [B, C]; reads layer L only."""
        vector = representatives[:, -1]
        vector = rms_normalised(vector) if self.rms else vector
        return self.out(self.dropout(torch.tanh(self.project(vector))))


def initialise(head: nn.Module, seed: int) -> None:
    """Draw the head's weights anew (PyTorch's default scheme) from a seed alone; the head must be on the CPU.

    Neither what was drawn before nor the global random state changes the result, and the global state is
    left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if callable(draw := getattr(head, "draw", None)):  # a head that knows how its library draws it
            draw()
            return
        for module in head.modules():
            if callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()
