"""What a run will take: from the nearest records there are, else from a cost model and an assumption.

One unit of the cost model is one layer forward for one token: arithmetic on a configuration. Records turn
units into seconds.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from layertune.config import RunConfig
from layertune.config.build import build_dataclass
from layertune.config.groups import group_file
from layertune.config.identity import GRADIENT_SCORERS, WEIGHT_SCORERS
from layertune.config.schema import ModelSizes, TaskSpec
from layertune.errors import ConfigError
from layertune.records.record import Record
from layertune.report.index import RecordIndex

ASSUMED_DEVICE = "a GPU (assumed)"
ASSUMED_FLOPS = 10e12  # sustained in fp32 on short sentences at batch 32; an assumption, not a measurement
ASSUMED_ROWS = 10_000  # of a task whose YAML has no counts
ADAPTIVE_ROWS = 256  # that `scoring.examples=adaptive` reads where no record says so: a guess
NO_DEVICE = "none"  # asks for the assumption, whatever is recorded
# What an example costs besides its own tokens, in tokens: its share of a step and the lesser speed of short
# rows. With 8, runs of gte_small on texts of 5 to 70 tokens foretell each other within a quarter.
OVERHEAD = 8.0
TOKENS = {"sentence": 25.0, "pair": 45.0, "generation": 60.0}  # of an example, where its YAML says nothing
# A step of RECAP in steps of full fine-tuning, as measured on gte_small: the masks of gradients and the odd
# sizes of the pruned matrices cost more than the pruning saves.
RECAP_STEP = 1.4
WHOLE_LAYERS = ("selected", "layers", "head_only")  # kinds of methods below whose layers nothing trains
ADDED = ("lora", "adapters", "prefix", "ia3")  # kinds of methods that train parameters of their own
LONGEST = 4.0  # the longest example of a batch has so many times the mean number of tokens


def sizes_of(model: str) -> ModelSizes | None:
    """Return the sizes of a model by its name, from its YAML; None where that does not say them."""
    content = group_file("model", model) or {}
    if content.get("sizes") is not None:
        sizes: ModelSizes = build_dataclass(ModelSizes, content["sizes"], "model.sizes")
        return sizes
    random: Mapping[str, Any] = content.get("random_config") or {}
    hidden = random.get("hidden_size", random.get("n_embd"))
    if hidden is None:
        return None
    inner = random.get("intermediate_size", 4 * hidden)
    layers = int(random.get("num_hidden_layers") or random["n_layer"])
    layer = float(4 * hidden * hidden + 2 * hidden * inner + 9 * hidden + inner)
    positions = int(random.get("max_position_embeddings") or random["n_positions"])
    return ModelSizes(hidden, layer, layers * layer + hidden * (random["vocab_size"] + positions + 2))


def tokens_per_example(task: TaskSpec) -> float:
    """Return the mean length of an example in tokens: as the YAML of its data set says, else assumed."""
    kind = "generation" if task.kind == "generation" else "pair" if task.is_pair else "sentence"
    measured = (group_file("task", task.data_name) or {}).get("mean_tokens")
    return min(measured or TOKENS[kind], float(task.max_length))


def training_rows(run: RunConfig) -> int:
    """Return the training rows of a run, from the counts of its task and the limits of its protocol."""
    rows = run.task.counts.get(run.task.train_split, ASSUMED_ROWS)
    if run.protocol.holdout is not None:
        rows -= min(rows // 10, run.protocol.holdout)
    return min(rows, run.protocol.train_examples or rows)


def trained_examples(run: RunConfig) -> float:
    """Return how many examples pass through training, all epochs together."""
    assert run.train.epochs is not None and run.train.batch_size is not None, "a run is resolved"
    if run.protocol.max_steps is not None:
        return float((run.protocol.max_steps + (run.protocol.warmup_steps or 0)) * run.train.batch_size)
    epochs = run.train.epochs
    if run.method.kind == "recap" and run.method.options.get("source_budget"):
        epochs = 2 * (epochs + 1)
    return float(epochs * training_rows(run))


def evaluated_examples(run: RunConfig) -> float:
    """Return how many examples are evaluated: each epoch the own split, twice each foreign one.

    A generated output counts as its beams, at the mean length of an example.
    """
    task, protocol = run.task, run.protocol
    epochs = (run.train.epochs or 0) if protocol.every_epoch else 1

    def rows(of: TaskSpec) -> int:
        there = of.counts.get(of.eval_split, ASSUMED_ROWS)
        return min(there, protocol.eval_examples or there)

    if not protocol.evaluate:
        return 0.0
    if task.kind == "generation":
        dev, test = task.meanings.get("validation", 0), task.meanings.get("test", 0)
        dev, test = min(dev, protocol.dev_meanings or dev), min(test, protocol.eval_meanings or test)
        return float(task.decoding.num_beams * (epochs * dev + 2 * test))
    if protocol.holdout is not None:
        return float(epochs * min(task.counts.get("train", ASSUMED_ROWS) // 10, protocol.holdout))
    return float(epochs * rows(task) + 2 * sum(rows(foreign) for foreign in task.foreign.values()))


def step_units(run: RunConfig, lowest: float | None) -> float:
    """Return the cost of training on one token: L + (L - l + 1 - 1/4) + k (full 3 L, LoRA about 2 L).

    `lowest` is the lowest trained layer l, counted from 1; 0 for the embeddings; None where it is not known.
    """
    layers, kind, k, options = run.model.num_layers, run.method.kind, _chosen(run), run.method.options
    if kind in ADDED:
        return 2.0 * layers
    if kind == "lift":  # one layer at a time, each equally often
        return layers + (layers + 1) / 2 - 0.25 + 1
    if kind == "lisa":
        return 2.0 * layers + int(options["layers"])
    if kind == "slimfit":
        return 2.0 * layers + (1 - float(options["freezing_rate"])) * layers
    if kind == "recap":  # besides its steps it scores: mini-batches forward and back in each phase
        assert run.train.batch_size is not None, "a run is resolved"
        batches = 10 * (int(options["rounds"]) + 1) * (int(options["prune_steps"]) + 1)
        scores = 3.0 * layers * batches * run.train.batch_size / max(1.0, trained_examples(run))
        return RECAP_STEP * 3.0 * layers + scores
    if kind in WHOLE_LAYERS and k is not None:
        above = layers - (lowest if lowest is not None else lowest_layer(run)) + 1
        forward = above if run.train.mode == "fast" else layers
        return forward + above - 0.25 + k
    if kind in WHOLE_LAYERS:
        return float(layers if run.train.mode == "published" else 0)
    return 3.0 * layers  # full fine-tuning; a method of one's own is at most that


def once_units(run: RunConfig, lowest: float | None) -> float:
    """Return the cost per token of filling the cache of frozen layers, once: l - 1 under train=fast."""
    if run.train.mode != "fast" or run.method.kind not in WHOLE_LAYERS:
        return 0.0
    if _chosen(run) is None:
        return float(run.model.num_layers)
    return (lowest if lowest is not None else lowest_layer(run)) - 1.0


def scoring_units(run: RunConfig) -> float:
    """Return the cost per token of scoring the layers: a pass forward, for gradients and back."""
    if run.method.scorer is None or run.method.scorer in WEIGHT_SCORERS:
        return 0.0
    return run.model.num_layers * (3.0 if run.method.scorer in GRADIENT_SCORERS else 1.0)


def lowest_layer(run: RunConfig) -> float:
    """Return the lowest trained layer to expect; unknown selections count as k layers drawn at random."""
    if named := _named(run):
        return float(min(named))
    layers, k, selector = run.model.num_layers, run.method.k or 1, run.method.selector or ""
    if selector == "top":
        return layers - k + 1.0
    if selector == "bottom":
        return 1.0
    if selector.startswith("block"):  # the middle of the first block
        return (layers / k + 1) / 2
    return (layers + 1) / (k + 1)


def memory_bytes(run: RunConfig, lowest: float | None) -> float | None:
    """Return the peak memory of training in fp32, None for a model of unknown size.

    Weights; gradient and two moments of what trains; activations per token and layer, which fit the
    measurements for BERT-base at 32 x 128 tokens within 5 %: 100 h bytes where a layer trains, 73 h where
    gradients pass through.
    """
    sizes = sizes_of(run.model.name)
    if sizes is None:
        return None
    assert run.train.batch_size is not None, "a run is resolved"
    layers, kind, k = run.model.num_layers, run.method.kind, _chosen(run)
    trained, reached, parameters = layers, float(layers), sizes.parameters  # of full fine-tuning
    if kind in WHOLE_LAYERS and k is None:
        trained, reached, parameters = 0, 0.0, 0.0
    elif kind in WHOLE_LAYERS and k is not None:
        trained, reached = k, layers - (lowest if lowest is not None else lowest_layer(run)) + 1
        parameters = k * sizes.layer_parameters
    elif kind in ADDED:
        trained, parameters = 0, 0.0
    elif kind in ("lift", "lisa"):
        trained = 1 if kind == "lift" else int(run.method.options["layers"])
        parameters = layers * sizes.layer_parameters
    rows = run.train.micro_batch or run.train.batch_size
    tokens = rows * min(float(run.task.max_length), LONGEST * tokens_per_example(run.task))
    activations = tokens * sizes.hidden * (100 * trained + 73 * (reached - trained))
    return 4 * sizes.parameters + 12 * parameters + activations


def _named(run: RunConfig) -> list[int]:
    """Return the layers that `method=layers` names; none for every other method."""
    return list(run.method.options.get("layers") or ()) if run.method.kind == "layers" else []


def _chosen(run: RunConfig) -> int | None:
    """Return how many whole layers a method of `WHOLE_LAYERS` trains; None for the head alone."""
    return len(_named(run)) or run.method.k


@dataclass(frozen=True)
class Estimate:
    """Time and memory of one run, and where they come from."""

    seconds: float | None  # selection, caches, training and evaluation; None where nothing is known
    memory_bytes: float | None  # peak
    basis: str  # "3 records of same model, method and protocol"


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
        self._groups: dict[tuple[object, ...], _Group] = {}
        self._paid: set[tuple[object, ...]] = set()  # scores and caches that earlier runs of the plan pay for

    def estimate(self, run: RunConfig) -> Estimate:
        """Return time and memory of a run; the first run that needs scores or a cache pays for them."""
        own = self._group(run, run.model.name)
        asked = {"method": run.method.name, "k": run.method.k}
        lowest = _median(one.layer for one in own.named(**asked, task=run.task.name))
        if lowest is None:  # that the same selection had on other tasks
            lowest = _median(one.layer for one in own.named(**asked))
        units = step_units(run, lowest)
        per_unit, basis, nearest = self._per_unit(run, own, units)
        peaks = [peak for one in nearest if (peak := one.training.peak_memory_bytes) is not None]
        modelled = memory_bytes(run, lowest)
        memory = max(peaks) if peaks else None if modelled is None else modelled * own.memory_ratio
        if per_unit is None:
            return Estimate(None, memory, basis)
        tokens = _median(m.tokens for m in own.named(task=run.task.name)) or tokens_per_example(run.task)
        load = tokens + OVERHEAD
        data = run.model.name, run.task.data_name, run.protocol.train_examples
        work, evaluation, scores = 0.0, 0.0, 0.0
        if run.stage == "run":
            work = trained_examples(run) * units
            rate = _median(one.evaluation_rate for one in nearest) or own.evaluation_rate or per_unit
            evaluation = rate * load * evaluated_examples(run) * run.model.num_layers
            once = once_units(run, lowest)
            if once and self._pays("cache", once, run.cache, *data):
                work += training_rows(run) * once
        if (scoring := scoring_units(run)) and self._pays("scores", run.method.scorer, run.scoring, *data):
            rate = _median(one.scoring_rate for one in nearest) or own.scoring_rate or per_unit
            scores = rate * load * _scored_rows(run, nearest) * scoring
        return Estimate(per_unit * load * work + evaluation + scores, memory, basis)

    def _group(self, run: RunConfig, model: str) -> _Group:
        """Return a model's records of the same precision.

        Those of a few rows measure start-up, and count among themselves only.
        """
        precision, few = run.train.precision or "fp32", run.protocol.name == "smoke"
        key = (model, precision, few)
        if key not in self._groups:
            self._groups[key] = _Group(
                _Measured(record)
                for record in self.records
                if record.spec.model == model
                and record.env is not None
                and record.env.precision == precision
                and (record.spec.protocol == "smoke") == few
            )
        return self._groups[key]

    def _per_unit(
        self, run: RunConfig, own: _Group, units: float
    ) -> tuple[float | None, str, Sequence[_Measured]]:
        """Return seconds per unit of the cost model, from where, and the records of the same method."""
        asked = {"method": run.method.name, "k": run.method.k, "train": run.train.mode}
        task, protocol = {"task": run.task.name}, {"protocol": run.protocol.name}
        for more in (
            task | protocol,
            protocol,
            task,
            {},
        ):  # a protocol's runs are alike in more than a task's
            if units and (nearest := own.named(**asked, **more)):
                seconds = statistics.median(one.seconds_per_load for one in nearest)
                *first, last = "model", "method", *more
                words = f"same {', '.join(first)} and {last}"
                return seconds / units, _counted(len(nearest), words), nearest
        if known := own.per_unit:
            words = _counted(len(known), f"{run.model.name}, by the cost model")
            return statistics.median(known), words, ()
        sizes, others = sizes_of(run.model.name), self._others(run)
        if sizes is None:
            return None, f"no record of {run.model.name}, whose size is not known", ()
        if others:
            seconds = statistics.median(others) * sizes.layer_parameters
            words = _counted(len(others), "other models, by the cost model and the size of a layer")
            return seconds, words, ()
        assumed = f"{ASSUMED_FLOPS / 1e12:g} TFLOP/s sustained"
        seconds = 2 * sizes.layer_parameters / ASSUMED_FLOPS
        return seconds, f"no record: the cost model, and an assumption of {assumed}", ()

    def _others(self, run: RunConfig) -> list[float]:
        """Return seconds per unit and parameter of a layer, from the records of other models."""
        found = []
        for name in self._models:
            if (sizes := sizes_of(name)) is not None:
                found += [one / sizes.layer_parameters for one in self._group(run, name).per_unit]
        return found

    def _pays(self, *key: object) -> bool:
        """Say whether no earlier run computes the same scores or cache: seeds and strategies share them."""
        if key in self._paid:
            return False
        self._paid.add(key)
        return True


class _Measured:
    """What a usable record measured, in the terms of the cost model."""

    def __init__(self, record: Record) -> None:
        assert record.training is not None, "a usable record has trained"
        self.record, self.training = record, record.training
        self.layer = None if record.model is None else record.model.lowest_trained_layer
        self.tokens = self.training.tokens_per_second / self.training.examples_per_second  # of an example
        self.load = self.tokens + OVERHEAD
        self.seconds_per_load = 1 / (self.training.examples_per_second * self.load)

    @property
    def per_unit(self) -> float | None:
        """Seconds per unit; None where the model does not know the run."""
        units = 0.0 if self.record.run is None else step_units(self.record.run, self.layer)
        return self.seconds_per_load / units if units else None

    @property
    def evaluation_rate(self) -> float | None:
        """Seconds of evaluation per layer and token of load; None where they were not recorded."""
        run, seconds = self.record.run, self.training.evaluation_seconds
        if run is None or not seconds or not (rows := evaluated_examples(run)):
            return None
        return seconds / (rows * self.load * run.model.num_layers)

    @property
    def scoring_rate(self) -> float | None:
        """Seconds of scoring per unit and token of load; None where nothing was scored."""
        run, chosen = self.record.run, self.record.selection
        units = 0.0 if run is None else scoring_units(run)
        if chosen is None or not (work := chosen.examples * units):
            return None
        return chosen.seconds / (work * self.load)

    @property
    def memory_ratio(self) -> float | None:
        """The peak beside the modelled one; None where one of them is not known."""
        modelled = None if self.record.run is None else memory_bytes(self.record.run, self.layer)
        peak = self.training.peak_memory_bytes
        return None if peak is None or modelled is None else peak / modelled


class _Group:
    """Records that compare, and what follows from them, each worked out once for all runs of a plan."""

    def __init__(self, records: Iterable[_Measured]) -> None:
        self.records = tuple(records)
        self._named: dict[tuple[str, ...], dict[tuple[object, ...], list[_Measured]]] = {}

    def named(self, **spec: object) -> list[_Measured]:
        """Return the records whose section `spec` has these values."""
        names = tuple(spec)
        if names not in self._named:
            groups = self._named[names] = {}
            for one in self.records:
                groups.setdefault(tuple(getattr(one.record.spec, name) for name in names), []).append(one)
        return self._named[names].get(tuple(spec.values()), [])

    @cached_property
    def per_unit(self) -> list[float]:
        """Seconds per unit of the cost model, of the runs that it knows."""
        return [value for one in self.records if (value := one.per_unit) is not None]

    @cached_property
    def evaluation_rate(self) -> float | None:
        """Seconds of evaluation per layer and token of load, of the runs that recorded them."""
        return _median(one.evaluation_rate for one in self.records)

    @cached_property
    def scoring_rate(self) -> float | None:
        """Seconds of scoring per unit and token of load, of the runs that scored."""
        return _median(one.scoring_rate for one in self.records)

    @cached_property
    def memory_ratio(self) -> float:
        """How the peaks compare with the modelled ones; 1 where there are none."""
        ratio = _median(one.memory_ratio for one in self.records)
        return 1.0 if ratio is None else ratio


def _scored_rows(run: RunConfig, nearest: Iterable[_Measured]) -> float:
    """Return how many rows scoring reads; adaptive scoring as many as it did in the nearest records."""
    rows, asked = training_rows(run), run.scoring.examples
    if asked != "adaptive":
        return min(rows, asked) if isinstance(asked, int) else rows
    found = [
        one.record.selection.examples
        for one in nearest
        if one.record.selection is not None and one.record.run is not None
        if one.record.run.scoring.examples == "adaptive"
    ]
    return min(rows, statistics.fmean(found) if found else ADAPTIVE_ROWS)


def _median(values: Iterable[float | None]) -> float | None:
    """Return the median of what is known; None of nothing."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _device(records: Sequence[Record], models: set[str], wanted: str | None) -> str:
    names = Counter(record.device for record in records if record.spec.model in models)
    if wanted == NO_DEVICE:
        return ASSUMED_DEVICE
    if wanted is not None:
        every = Counter(record.device for record in records)
        names = Counter({name: count for name, count in every.items() if wanted.lower() in name.lower()})
        if not names:
            known = ", ".join(sorted(every)) or "nowhere yet"
            raise ConfigError(f"DEVICE={wanted}: no record is of such a device; recorded: {known}.")
    return max(sorted(names), key=lambda name: names[name]) if names else ASSUMED_DEVICE


def _is_usable(record: Record) -> bool:
    training = record.training
    return (
        record.status == "done"
        and training is not None
        and min(training.tokens_per_second, training.examples_per_second, training.steps) > 0
    )


def _counted(number: int, words: str) -> str:
    return f"{number} record{'' if number == 1 else 's'} of {words}"
