"""Layer scores: how much each layer matters for a task, before any training (§3.1, §4.2, §7.3, §7.4; and
rules of other papers)."""

from __future__ import annotations

from collections.abc import Callable

from layertune.scoring.layer_scores import LayerScores
from layertune.scoring.similarity import angular, block_influence, cka, cosine, euclidean, io_cosine
from layertune.scoring.statistics import feature_variance, fisher, gradient_norm, spectrum, weight_norm

# Each takes (TaskModel, batches); TOKEN_SCORERS (layertune.config.identity) also take tokens="all" |
# "representative", EXAMPLE_SCORERS `each`; WEIGHT_SCORERS read no batch.
SCORERS: dict[str, Callable[..., LayerScores]] = {
    "cosine": cosine,
    "euclidean": euclidean,
    "io_cosine": io_cosine,
    "gradient_norm": gradient_norm,
    "feature_variance": feature_variance,
    "fisher": fisher,
    "block_influence": block_influence,
    "angular": angular,
    "cka": cka,
    "spectrum": spectrum,
    "weight_norm": weight_norm,
}

__all__ = ["SCORERS", "LayerScores"]
