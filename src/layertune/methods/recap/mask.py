"""RECAP's second step: which rows of the pruned model's matrices train."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def highest_rows(scores: Mapping[str, Tensor], masked: float) -> dict[str, Tensor]:
    """Keep all but the share `masked` of the rows of all matrices taken together: those of the highest score.

    Of equals the first stay.

    Args:
        scores: matrix -> [rows].
        masked: at least 0, below 1.

    Returns:
        Matrix -> [rows] of bool, true where the row trains.
    """
    everything = torch.cat(list(scores.values()))
    keep = len(everything) - math.floor(masked * len(everything) + 1e-9)
    chosen = torch.zeros(len(everything), dtype=torch.bool)
    chosen[torch.argsort(everything, descending=True, stable=True)[:keep]] = True
    parts = chosen.split([len(rows) for rows in scores.values()])
    return dict(zip(scores, parts, strict=True))
