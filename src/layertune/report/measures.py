"""What a column reads from a record, by name. Values are in the record's units; None = not recorded."""

from __future__ import annotations

import math
from collections.abc import Callable

from layertune.records.record import Record
from layertune.report.cells import Column

Measure = Callable[[Record, Column, str], float | None]  # (record, column, read-out) -> value


def metric(record: Record, column: Column, readout: str) -> float | None:
    """Return the column's metric on its evaluation set, at the read-out `last` or `best`."""
    return record.metric(readout, column.evaluation, column.metric)


def trainable_parameters(record: Record, column: Column, readout: str) -> float | None:
    """Return the most parameters that got a gradient in one step, the head included.

    Where that is everything but parameters in no computation (BERT's pooler), they count too: the paper's
    116.6 M for full fine-tuning includes them (Table 4).
    """
    model = record.model
    if model is None:
        return None
    count = model.trainable.get("at_once", model.num_trainable)
    return count + model.unused if count + model.unused == model.parameters else count


def touched_parameters(record: Record, column: Column, readout: str) -> float | None:
    """Return all parameters that ever got a gradient; records without the count changed nothing mid-run."""
    model = record.model
    return None if model is None else model.trainable.get("touched", model.num_trainable)


def _parameters(place: str) -> Measure:
    """Return the measure of the parameters in one place that are trainable as training starts."""

    def read(record: Record, column: Column, readout: str) -> float | None:
        return None if record.model is None else record.model.trainable[place]

    return read


def lowest_trained_layer(record: Record, column: Column, readout: str) -> float | None:
    """Return the lowest layer that trained, counted from 1; 0 = the embeddings; None for the head alone."""
    return None if record.model is None else record.model.lowest_trained_layer


def seconds_per_step(record: Record, column: Column, readout: str) -> float | None:
    """Return the median step, the base of a speed-up."""
    return None if record.training is None else record.training.seconds_per_step_median


def peak_memory(record: Record, column: Column, readout: str) -> float | None:
    """Return the peak memory in bytes: of the device, of the process on a CPU."""
    return None if record.training is None else record.training.peak_memory_bytes


def preparation_seconds(record: Record, column: Column, readout: str) -> float | None:
    """Return what selection and the cache of frozen layers cost when first computed, reused or not."""
    if record.training is None:
        return None
    selection = 0.0 if record.selection is None else record.selection.seconds
    return selection + record.training.cache.seconds


def run_seconds(record: Record, column: Column, readout: str) -> float | None:
    """Return what a run costs: training, and scoring and caching as first computed, reused or not.

    Of a CPU the training's CPU seconds, which other work on the machine does not lengthen.
    """
    training, before = record.training, preparation_seconds(record, column, readout)
    if training is None or before is None:
        return None
    return (training.cpu_seconds if record.is_on_cpu else training.seconds) + before


def scores(record: Record, column: Column, readout: str) -> float | None:
    """Return the number of layers that have a score: the figure reads the scores themselves."""
    found = None if record.selection is None else record.selection.scores
    return None if found is None else len(found)


def split_error(record: Record, evaluation: str, metric: str, readout: str = "last") -> float | None:
    """Return the standard error of a score that comes from the few rows of its evaluation split.

    Of accuracy the binomial one, of Pearson's r that of Fisher's z at first order. F1, Matthews' coefficient,
    Spearman's rho and the metrics of generation need the single outputs, which records do not hold: None.
    """
    value = record.metric(readout, evaluation, metric)
    rows = 0 if record.data is None else record.data.counts.get(evaluation, 0)
    if value is None or rows < 2:
        return None
    if metric == "accuracy":
        return math.sqrt(max(value * (1 - value), 0.0) / rows)
    return (1 - value**2) / math.sqrt(rows - 1) if metric == "pearson" else None


MEASURES: dict[str, Measure] = {
    "metric": metric,
    "trainable_parameters": trainable_parameters,
    "backbone_parameters": _parameters("backbone"),
    "head_parameters": _parameters("head"),
    "added_parameters": _parameters("added"),
    "touched_parameters": touched_parameters,
    "lowest_trained_layer": lowest_trained_layer,
    "speedup": seconds_per_step,  # aggregate divides that of full fine-tuning by it
    "peak_memory": peak_memory,
    "preparation_seconds": preparation_seconds,
    "run_seconds": run_seconds,
    "scores": scores,
}
