"""RECAP's second step: which rows of the pruned model's matrices train.

Choice: [RECAP, mask] all rows of a pool's matrices are ranked together, by their sums as they are. The source
ranks globally, attention and feed-forward network apart; that each matrix counts on its own is read to mean
that the rows which make up one head or neuron are masked one by one: a ranking within each matrix would need
no pools. Sums are not divided by the length of a row; neither are those by which groups are removed.
"""

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
