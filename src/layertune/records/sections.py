"""From what the rooms return to the sections of a record; values only, so that nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layertune.config.identity import weights_key
from layertune.config.schema import RunConfig
from layertune.records.record import MetricsRecord, ModelRecord, SelectionRecord

if TYPE_CHECKING:
    from layertune.methods import Preparation
    from layertune.training import TrainOutcome


def model_section(
    run: RunConfig, tokenizer_key: str, commit: str | None, facts: Mapping[str, Any]
) -> ModelRecord:
    """Say which weights were trained, and how many numbers of them.

    Args:
        run: its model says where the weights came from.
        tokenizer_key: sha256 of the tokenizer's content.
        commit: of the hub that was read, for a model that pins none.
        facts: what was counted.
    """
    local = run.model.path is not None
    return ModelRecord(
        source="local" if local else run.model.source,
        revision=None if local else run.model.revision or commit,
        weights=weights_key(run),
        tokenizer_key=tokenizer_key,
        **facts,
    )


def selection_section(run: RunConfig, prep: Preparation) -> SelectionRecord | None:
    """Say how the layers were chosen; None for methods that choose none."""
    if prep.layers is None and prep.scores is None:
        return None
    scores = prep.scores
    return SelectionRecord(
        scorer=run.method.scorer,
        selector=run.method.selector,
        scores=None if scores is None else scores.values,
        std=None if scores is None else scores.std,
        matrix=None if scores is None else scores.matrix,
        layers=prep.layers,
        examples=0 if scores is None else scores.examples,
        seconds=0.0 if scores is None else scores.seconds,
        reused=prep.reused,
    )


def metrics_section(
    outcome: TrainOutcome, outputs: Mapping[str, str | None] | None = None
) -> MetricsRecord | None:
    """Give both read-outs, and the files of the outputs behind them; None where nothing was evaluated."""
    if not outcome.last:
        return None
    return MetricsRecord(outcome.last, outcome.best or None, None if outputs is None else dict(outputs))
