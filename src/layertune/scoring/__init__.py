"""Layer scores: how much each layer matters for a task, before any training (§3.1, §4.2, §7.3, §7.4)."""

from __future__ import annotations

from collections.abc import Callable

from layertune.scoring.layer_scores import LayerScores
from layertune.scoring.similarity import cosine, euclidean, io_cosine
from layertune.scoring.statistics import feature_variance, gradient_norm

# Each takes (TaskModel, batches); io_cosine and feature_variance also take tokens="all" | "representative".
SCORERS: dict[str, Callable[..., LayerScores]] = {
    "cosine": cosine,
    "euclidean": euclidean,
    "io_cosine": io_cosine,
    "gradient_norm": gradient_norm,
    "feature_variance": feature_variance,
}

__all__ = ["SCORERS", "LayerScores"]
