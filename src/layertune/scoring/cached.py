"""One scoring pass per model and task: the result is kept on disk and shared by all methods and seeds.

The key holds everything a score depends on: weights, rows, tokens, scorer, last-layer mode. The cost reported
is the cost when first computed, so that reuse never makes a speed-up free.
"""

from __future__ import annotations

import dataclasses
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from layertune.cache_store import CacheStore
from layertune.config import RunConfig, ScoringSpec
from layertune.config.build import build_dataclass
from layertune.config.files import file_sha256
from layertune.config.identity import (
    GRADIENT_SCORERS,
    TOKEN_SCORERS,
    WEIGHT_SCORERS,
    sha256_of,
    weights_key,
)
from layertune.config.names import resolve_name
from layertune.models import TaskModel
from layertune.scoring import SCORERS, LayerScores
from layertune.scoring.adaptive import BATCH, ENOUGH, LEAST_EXAMPLES, adaptive_scores
from layertune.tasks import Batch, TaskData, TokenStore, sorted_batches

log = logging.getLogger(__name__)

SCORING_VERSION = 2  # raised when the same input would give other scores


def cached_scores(
    run: RunConfig, model: TaskModel, data: TaskData, device: torch.device
) -> tuple[LayerScores, bool]:
    """Return the scores of a run's scorer over its training split, and whether they came from disk."""
    assert run.method.scorer is not None, f"{run.method.name} has no scorer"
    rows = scored_rows(len(data.train), run.scoring)
    cache = CacheStore(run.cache_dir / "scores")
    key = score_key(run, data, rows, model.backbone.commit)
    with cache.building(key):  # one process scores; others wait here, and then find the scores
        if (entry := cache.find(key)) is not None:
            kept: LayerScores = build_dataclass(LayerScores, entry.facts["scores"], "scores")
            log.info("scores: %s over %d rows, from disk", run.method.scorer, kept.examples)
            return kept, True
        scores = _scored(run, model, data, rows, device)
        log.info("scores: %s over %d rows in %.1f s", run.method.scorer, scores.examples, scores.seconds)
        with cache.writing(key, {}) as (_, facts):
            facts["scores"] = dataclasses.asdict(scores)
    return scores, False


def _scored(
    run: RunConfig, model: TaskModel, data: TaskData, rows: np.ndarray, device: torch.device
) -> LayerScores:
    scorer = resolve_name(run.method.scorer, SCORERS, "method.scorer")
    tokens = run.scoring.tokens if run.method.scorer in TOKEN_SCORERS else None
    options = {} if tokens is None else {"tokens": tokens}
    store = data.train.store.without_references() if run.task.score_text == "prompt" else data.train.store
    scores: LayerScores
    if run.scoring.examples == "adaptive":
        assert run.method.selector is not None and run.method.k is not None
        how = (run.method.selector, run.method.k, run.scoring.batch_size)
        scores = adaptive_scores(scorer, model, store, *how, **options)
    else:
        scores = scorer(model, batches_of(store, rows, run.scoring.batch_size, device), **options)
    return scores


def scored_rows(total: int, scoring: ScoringSpec) -> np.ndarray:
    """Return the row numbers that are scored: all, or a subset drawn once with seed 0 for all seeds."""
    if not isinstance(scoring.examples, int) or scoring.examples >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).choice(total, scoring.examples, replace=False))


def batches_of(store: TokenStore, rows: np.ndarray, batch_size: int, device: torch.device) -> Iterator[Batch]:
    """Gather rows into batches of similar length, on the device."""
    for indices in sorted_batches(store.lengths[rows], batch_size):
        yield store.batch(rows[indices]).to(device)


def score_key(
    run: RunConfig, data: TaskData, rows: np.ndarray, commit: str | None = None
) -> dict[str, object]:
    """Return everything that the scores depend on.

    Args:
        run: what is asked.
        data: the training split is read.
        rows: which of its rows.
        commit: of the hub that the weights were read from, where the run pins none.
    """
    model, scorer = run.model, run.method.scorer
    key: dict[str, object] = {
        "version": SCORING_VERSION,
        "scorer": scorer_key(scorer),
        "weights": weights_key(run) if model.revision else [weights_key(run), commit],
        "representative": [model.representative_token, model.last_layer],
    }
    if scorer in TOKEN_SCORERS:
        key["tokens"] = run.scoring.tokens
    if scorer in GRADIENT_SCORERS:  # what gradients are taken of
        key["loss"] = [run.head_in_force, model.rep_norm, run.train.label_smoothing]
    if scorer not in WEIGHT_SCORERS:
        shown = run.task.score_text if run.task.kind == "generation" else None
        key["rows"] = [data.provenance.fingerprint_sha256, sha256_of(rows.tolist())]
        key["tokens shown"] = [data.train.store.content_sha256(), shown]
    if run.scoring.examples == "adaptive":
        key["adaptive"] = [run.method.selector, run.method.k, BATCH, LEAST_EXAMPLES, ENOUGH]
    return key


def scorer_key(name: str | None) -> str | list[str] | None:
    """Return what stands for a scorer: its name; for one given by dotted path, also the hash of its file."""
    if name is None or name in SCORERS:
        return name
    resolve_name(name, SCORERS, "method.scorer")  # imports its module
    file = getattr(sys.modules[name.rpartition(".")[0]], "__file__", None)  # None: made in memory
    return name if file is None else [name, file_sha256(Path(file))]
