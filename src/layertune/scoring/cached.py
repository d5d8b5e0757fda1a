"""One scoring pass per model and task: the result is kept on disk and shared by all methods and seeds.

The key holds everything a score depends on: weights, rows, tokens, scorer, last-layer mode; the checksum
holds the key. The cost reported is the cost when first computed, so that reuse never makes a speed-up free.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from layertune.config import RunConfig, ScoringSpec
from layertune.config.build import build_dataclass
from layertune.config.files import file_sha256, lock_of, write_atomic
from layertune.config.identity import (
    GRADIENT_SCORERS,
    TOKEN_SCORERS,
    WEIGHT_SCORERS,
    sha256_of,
    weights_key,
)
from layertune.config.locks import locked
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
    path = run.cache_dir / "scores" / f"{score_key(run, data, rows, model.backbone.commit)}.json"
    with locked(lock_of(path)):  # one process scores; others wait here, and then find the scores
        if (scores := _read(path)) is not None:
            log.info("scores: %s over %d rows, from disk", run.method.scorer, scores.examples)
            return scores, True
        scores = _scored(run, model, data, rows, device)
        log.info("scores: %s over %d rows in %.1f s", run.method.scorer, scores.examples, scores.seconds)
        tree = dataclasses.asdict(scores)
        write_atomic(path, json.dumps({"sha256": sha256_of([path.stem, tree]), "scores": tree}).encode())
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


def _read(path: Path) -> LayerScores | None:
    """Return kept scores, or None where there are none or the file is not as it was written."""
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text())
        scores: LayerScores = build_dataclass(LayerScores, kept["scores"], path.name)
        if sha256_of([path.stem, kept["scores"]]) != kept["sha256"]:
            raise ValueError("its checksum does not fit its content and name")
    except (ValueError, TypeError, KeyError) as error:
        log.warning("%s is damaged (%s): the layers are scored again", path, error)
        return None
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


def score_key(run: RunConfig, data: TaskData, rows: np.ndarray, commit: str | None = None) -> str:
    """Hash everything that the scores depend on.

    Args:
        run: what is asked.
        data: the training split is read.
        rows: which of its rows.
        commit: of the hub that the weights were read from, where the run pins none.
    """
    model = run.model
    loss = [run.head_in_force, model.rep_norm, run.train.label_smoothing]  # what gradients are taken of
    shown = run.task.score_text if run.task.kind == "generation" else None
    adaptive = [run.method.selector, run.method.k, BATCH, LEAST_EXAMPLES, ENOUGH]
    read = {
        "rows": [data.provenance.fingerprint_sha256, sha256_of(rows.tolist())],
        "tokens shown": [data.train.store.content_sha256(), shown],
    }
    few = {"adaptive": adaptive} if run.scoring.examples == "adaptive" else {}
    return sha256_of(
        few
        | {
            "version": SCORING_VERSION,
            "scorer": scorer_key(run.method.scorer),
            "tokens": run.scoring.tokens if run.method.scorer in TOKEN_SCORERS else None,
            "weights": weights_key(run) if run.model.revision else [weights_key(run), commit],
            "representative": [model.representative_token, model.last_layer],
            "loss": loss if run.method.scorer in GRADIENT_SCORERS else None,
        }
        | ({} if run.method.scorer in WEIGHT_SCORERS else read)
    )


def scorer_key(name: str | None) -> str | list[str] | None:
    """Return what stands for a scorer: its name; for one given by dotted path, also the hash of its file."""
    if name is None or name in SCORERS:
        return name
    resolve_name(name, SCORERS, "method.scorer")  # imports its module
    file = getattr(sys.modules[name.rpartition(".")[0]], "__file__", None)  # None: made in memory
    return name if file is None else [name, file_sha256(Path(file))]
