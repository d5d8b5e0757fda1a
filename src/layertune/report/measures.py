"""What a column reads from a record, by name. Values are in the record's units; None = not recorded."""

from __future__ import annotations

from collections.abc import Callable

from layertune.report.cells import Column
from layertune.report.index import RunRecord

Measure = Callable[[RunRecord, Column, str], float | None]  # (record, column, read-out) -> value


def metric(record: RunRecord, column: Column, readout: str) -> float | None:
    """Return the column's metric on its evaluation set, at the read-out `last` or `best`."""
    return record.metric(readout, column.evaluation, column.metric)


def trainable_parameters(record: RunRecord, column: Column, readout: str) -> float | None:
    """Return the most parameters that got a gradient in one step, the head included.

    Where that is everything but parameters in no computation (BERT's pooler), they count too: the paper's
    116.6 M for full fine-tuning includes them (Table 4).
    """
    model = record.sections["model"]
    trainable = model.get("trainable")
    if trainable is None:
        return None
    start = sum(trainable[place] for place in ("backbone", "head", "added"))
    count = int(trainable.get("at_once", start))
    unused = int(model.get("unused", 0))
    return count + unused if count + unused == model["parameters"] else count


def touched_parameters(record: RunRecord, column: Column, readout: str) -> float | None:
    """Return all parameters that ever got a gradient; records without the count changed nothing mid-run."""
    trainable = record.sections["model"].get("trainable")
    if trainable is None:
        return None
    return float(trainable.get("touched", sum(trainable[place] for place in ("backbone", "head", "added"))))


def _parameters(place: str) -> Measure:
    """Return the measure of the parameters in one place that are trainable as training starts."""

    def read(record: RunRecord, column: Column, readout: str) -> float | None:
        trainable = record.sections["model"].get("trainable") or {}
        return None if place not in trainable else float(trainable[place])

    return read


def lowest_trained_layer(record: RunRecord, column: Column, readout: str) -> float | None:
    """Return the lowest layer that trained, counted from 1; 0 = the embeddings; None for the head alone."""
    return _number(record.sections["model"].get("lowest_trained_layer"))


def seconds_per_step(record: RunRecord, column: Column, readout: str) -> float | None:
    """Return the median step, the base of a speed-up."""
    return _number(record.sections["training"].get("seconds_per_step_median"))


def peak_memory(record: RunRecord, column: Column, readout: str) -> float | None:
    """Return the peak memory in bytes: of the device, of the process on a CPU."""
    return _number(record.sections["training"].get("peak_memory_bytes"))


def preparation_seconds(record: RunRecord, column: Column, readout: str) -> float | None:
    """Return what selection and the cache of frozen layers cost when first computed, reused or not."""
    training = record.sections["training"]
    if not training:
        return None
    selection = record.sections["selection"].get("seconds") or 0.0
    return float(selection) + float((training.get("cache") or {}).get("seconds") or 0.0)


def run_seconds(record: RunRecord, column: Column, readout: str) -> float | None:
    """Return what a run costs: training, and scoring and caching as first computed, reused or not.

    Of a CPU the training's CPU seconds, which other work on the machine does not lengthen.
    """
    training = record.sections["training"]
    is_cpu = record.sections["env"].get("device_memory_bytes") is None
    own = _number(training.get("cpu_seconds" if is_cpu else "seconds"))
    before = preparation_seconds(record, column, readout)
    return None if own is None or before is None else own + before


def scores(record: RunRecord, column: Column, readout: str) -> float | None:
    """Return the number of layers that have a score: the figure reads the scores themselves."""
    found = record.sections["selection"].get("scores")
    return None if found is None else float(len(found))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


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
