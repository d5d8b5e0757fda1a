"""What a run will take: from the nearest records there are, else from the cost model and an assumption."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from layertune.config import RunConfig
from layertune.errors import ConfigError
from layertune.records.record import Record, TrainingRecord
from layertune.report import cost
from layertune.report.index import RecordIndex

ADAPTIVE_ROWS = 256
NO_DEVICE = "none"  # asks for the assumption, whatever is recorded


@dataclass(frozen=True)
class Estimate:
    """Time and memory of one run, and where they come from."""

    seconds: float | None  # selection, caches, training and evaluation; None where nothing is known
    memory_bytes: float | None  # peak
    basis: str  # "3 records of the same model, method and task"


class Estimator:
    """Estimates runs on one device.

    Args:
        index: the records.
        models: names of the models that will run: the device with most of their records is taken.
        device: part of the name of a recorded device instead, or `none` for the assumption.

    Raises:
        ConfigError: no record is of such a device.
    """

    def __init__(self, index: RecordIndex, models: Iterable[str], device: str | None = None) -> None:
        usable = [record for record in index.records if _is_usable(record)]
        self.device = _device(usable, set(models), device)
        self.records = [record for record in usable if record.device == self.device]
        self._models = sorted({record.spec.model for record in self.records})
        self._groups: dict[tuple[object, ...], _Comparable] = {}
        self._paid: set[tuple[object, ...]] = (
            set()
        )  # scores and caches that an earlier run of the plan pays for

    def estimate(self, run: RunConfig) -> Estimate:
        """Return time and memory of a run; the first run that needs scores or a cache pays for them."""
        own = self._comparable(run, run.model.name)
        lowest = _lowest(run, own)
        units = cost.step_units(run, lowest)
        per_unit, basis, nearest = self._per_unit(run, own, units)
        memory = _memory(run, own, nearest, lowest)
        if run.stage == "score":
            units = 0.0
        if per_unit is None:
            return Estimate(None, memory, basis)
        tokens = _tokens(run, own)
        work, evaluation = 0.0, 0.0
        if run.stage == "run":
            work = cost.trained_examples(run) * units
            rate = _evaluation_rate(nearest) or own.evaluation_rate or per_unit
            evaluation = rate * tokens * cost.evaluated_examples(run) * run.model.num_layers
            once = cost.once_units(run, lowest)
            if once and self._pays("cache", once, run.cache, *_data(run)):
                work += cost.training_rows(run) * once
        if (scoring := cost.scoring_units(run)) and self._pays(
            "scores", run.method.scorer, run.scoring, *_data(run)
        ):
            work += _scored_rows(run) * scoring
        return Estimate(per_unit * tokens * work + evaluation, memory, basis)

    def _comparable(self, run: RunConfig, model: str) -> _Comparable:
        """Return a model's records of the same precision.

        Those of a few rows measure start-up, and count among themselves only.
        """
        precision, few = run.train.precision or "fp32", run.protocol.name == "smoke"
        key = (model, precision, few)
        if key not in self._groups:
            self._groups[key] = _Comparable(
                record
                for record in self.records
                if record.spec.model == model
                and record.env is not None
                and record.env.precision == precision
                and (record.spec.protocol == "smoke") == few
            )
        return self._groups[key]

    def _per_unit(
        self, run: RunConfig, own: _Comparable, units: float
    ) -> tuple[float | None, str, Sequence[Record]]:
        """Return seconds per unit of the cost model, from where, and the records of the same method."""
        asked = {"method": run.method.name, "k": run.method.k, "train": run.train.mode}
        same, here = own.named(**asked), own.named(**asked, task=run.task.name)
        for nearest, words in ((here, "same model, method and task"), (same, "same model and method")):
            if nearest and units:
                seconds = statistics.median(1 / _rate(record) for record in nearest)
                return seconds / units, _counted(len(nearest), words), nearest
        if known := own.per_unit:
            words = _counted(len(known), f"{run.model.name}, by the cost model")
            return statistics.median(known), words, ()
        shape, others = cost.shape_of(run.model.name), self._others(run)
        if shape is None:
            return None, f"no record of {run.model.name}, whose size is not known", ()
        if others:
            seconds = statistics.median(others) * shape.layer_parameters
            words = _counted(len(others), "other models, by the cost model and the size of a layer")
            return seconds, words, ()
        seconds = 2 * shape.layer_parameters / cost.ASSUMED_FLOPS
        return seconds, "no record: the cost model, and an assumption of " + assumption(), ()

    def _others(self, run: RunConfig) -> list[float]:
        """Return seconds per unit and parameter of a layer, from the records of other models."""
        found = []
        for name in self._models:
            if (shape := cost.shape_of(name)) is not None:
                found += [one / shape.layer_parameters for one in self._comparable(run, name).per_unit]
        return found

    def _pays(self, *key: object) -> bool:
        """Say whether no earlier run computes the same scores or cache: seeds and strategies share them."""
        if key in self._paid:
            return False
        self._paid.add(key)
        return True


class _Comparable:
    """Records that compare, and what follows from them, each worked out once for all runs of a plan."""

    def __init__(self, records: Iterable[Record]) -> None:
        self.records = tuple(records)
        self._groups: dict[tuple[str, ...], dict[tuple[object, ...], list[Record]]] = {}

    def named(self, **spec: object) -> list[Record]:
        """Return the records whose section `spec` has these values."""
        names = tuple(spec)
        if names not in self._groups:
            groups: dict[tuple[object, ...], list[Record]] = {}
            for record in self.records:
                groups.setdefault(tuple(getattr(record.spec, name) for name in names), []).append(record)
            self._groups[names] = groups
        return self._groups[names].get(tuple(spec.values()), [])

    @cached_property
    def per_unit(self) -> list[float]:
        """Seconds per unit of the cost model, of the runs that it knows."""
        return _known(_per_unit_of(record) for record in self.records)

    @cached_property
    def evaluation_rate(self) -> float | None:
        """Seconds of evaluation per token and layer, of the runs that recorded them."""
        return _evaluation_rate(self.records)

    @cached_property
    def memory_ratio(self) -> float:
        """How the peaks compare with the modelled ones; 1 where there are none."""
        ratios = [
            peak / other
            for record in self.records
            if (peak := _peak(record)) is not None and (other := _modelled_memory(record)) is not None
        ]
        return statistics.median(ratios) if ratios else 1.0


def _lowest(run: RunConfig, own: _Comparable) -> float | None:
    """Return the lowest trained layer that the same selection had: on this task, else on others."""
    asked = {"method": run.method.name, "k": run.method.k}
    for records in (own.named(**asked, task=run.task.name), own.named(**asked)):
        if known := _known(_layer(record) for record in records):
            return statistics.median(known)
    return None


def _tokens(run: RunConfig, own: _Comparable) -> float:
    """Return the tokens of an example of the task: as records of the model have them, else as listed."""
    found = [_tokens_of(record) for record in own.named(task=run.task.name)]
    return statistics.median(found) if found else cost.tokens_per_example(run.task)


def _memory(
    run: RunConfig, own: _Comparable, nearest: Sequence[Record], lowest: float | None
) -> float | None:
    """Return the largest peak of the nearest records; else the modelled one, scaled by the others."""
    if peaks := _known(_peak(record) for record in nearest):
        return max(peaks)
    modelled = cost.memory_bytes(run.model, run, lowest)
    return None if modelled is None else modelled * own.memory_ratio


def _data(run: RunConfig) -> tuple[object, ...]:
    return run.model.name, run.task.data_name, run.protocol.train_examples


def assumption() -> str:
    """Say what is assumed of a device of which nothing is recorded."""
    return f"{cost.ASSUMED_FLOPS / 1e12:g} TFLOP/s sustained"


def _device(records: Sequence[Record], models: set[str], wanted: str | None) -> str:
    names = Counter(record.device for record in records if record.spec.model in models)
    if wanted == NO_DEVICE:
        return cost.ASSUMED_DEVICE
    if wanted is not None:
        every = Counter(record.device for record in records)
        names = Counter({name: count for name, count in every.items() if wanted.lower() in name.lower()})
        if not names:
            known = ", ".join(sorted(every)) or "nowhere yet"
            raise ConfigError(f"DEVICE={wanted}: no record is of such a device; recorded: {known}.")
    return max(sorted(names), key=lambda name: names[name]) if names else cost.ASSUMED_DEVICE


def _is_usable(record: Record) -> bool:
    training = record.training
    return (
        record.status == "done"
        and training is not None
        and min(training.tokens_per_second, training.examples_per_second, training.steps) > 0
    )


def _counted(number: int, words: str) -> str:
    return f"{number} record{'' if number == 1 else 's'} of {words}"


def _trained(record: Record) -> TrainingRecord:
    assert record.training is not None, "a usable record has trained"
    return record.training


def _rate(record: Record) -> float:
    """Return tokens per second of training."""
    return _trained(record).tokens_per_second


def _tokens_of(record: Record) -> float:
    return _rate(record) / _trained(record).examples_per_second


def _per_unit_of(record: Record) -> float | None:
    """Return seconds per unit of the cost model; None where the model does not know the run."""
    units = 0.0 if record.run is None else cost.step_units(record.run, _layer(record))
    return 1 / _rate(record) / units if units else None


def _evaluation_rate(records: Iterable[Record]) -> float | None:
    """Return the seconds of evaluation per token and layer; None where no record has them."""
    found = []
    for record in records:
        rows = 0.0 if record.run is None else cost.evaluated_examples(record.run)
        seconds = _trained(record).evaluation_seconds
        if record.run is not None and seconds and rows:
            found.append(seconds / (rows * _tokens_of(record) * record.run.model.num_layers))
    return statistics.median(found) if found else None


def _modelled_memory(record: Record) -> float | None:
    return None if record.run is None else cost.memory_bytes(record.run.model, record.run, _layer(record))


def _layer(record: Record) -> float | None:
    return None if record.model is None else record.model.lowest_trained_layer


def _scored_rows(run: RunConfig) -> int:
    """Return how many rows the layers are scored on; the adaptive choice stops early, at a guess of 256."""
    rows = cost.training_rows(run)
    asked = run.scoring.examples
    return min(rows, asked if isinstance(asked, int) else ADAPTIVE_ROWS if asked == "adaptive" else rows)


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _peak(record: Record) -> float | None:
    return _trained(record).peak_memory_bytes
