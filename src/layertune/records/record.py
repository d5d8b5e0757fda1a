"""One run's record, schema 1: what was asked, on which data and weights, what came out, and the proof that
it did.

This is the one spelling of its fields: whoever reads a record reads these classes. Reading validates the JSON
against them: half a file, an unknown key, a wrong type or a number that no run can have is an error that
names the file, the field and the reason. Writing is atomic.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, PlainValidator, TypeAdapter, ValidationError

from layertune.config import RunConfig
from layertune.config.files import write_atomic
from layertune.errors import RecordError

SCHEMA = 1
LARGEST = 10**18  # no number of a run is larger: such a one is damage when read, and null when written
OPEN_METRICS = ("loss", "perplexity", "nist", "nist_mean_reference", "nltk_nist", "cider")  # no fractions
CORRELATIONS = ("mcc", "pearson", "spearman")  # -1..1
OFFICIAL = "official"  # status of data: the rows that the paper's numbers are of
_ROUNDING = 1e-9  # by which a fraction may leave its range

Status = Literal["done", "failed", "oom", "interrupted"]


def _plain(value: Any) -> Any:
    """Return nested values as a record holds them, lists as tuples; refuse numbers that no run can have."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_plain(item) for item in value)
    if isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise ValueError(f"no run has the number {_shown(value)}")
    return value


def _scores(value: Any) -> dict[str, float | str | None]:
    """Return metrics by name; refuse what is no number within the range of its metric."""
    if not isinstance(value, Mapping):
        raise ValueError("metrics are a mapping from names to numbers")
    return {str(name): _score(str(name), score) for name, score in value.items()}


def _score(name: str, value: Any) -> float | str | None:
    if value is None or (isinstance(value, str) and name.endswith("_reason")):
        return value
    low, high = (-1.0 if name in CORRELATIONS else 0.0), (LARGEST if name in OPEN_METRICS else 1.0)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low - _ROUNDING <= value <= high + _ROUNDING:
        raise ValueError(f"{name}={_shown(value)} is not allowed: it takes a number from {low:g} to {high:g}")
    return float(value)


def _best(value: Any) -> dict[str, Any] | None:
    """Return the metrics of the best epoch by task, and under "epoch" which one that was."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or type(value.get("epoch")) is not int:
        raise ValueError('the best epoch is a mapping from tasks to metrics with a number under "epoch"')
    return {task: own if task == "epoch" else _scores(own) for task, own in value.items()}


def _with_keys(*names: str) -> AfterValidator:
    """Return a check that a mapping has some keys."""

    def check(value: dict[str, int]) -> dict[str, int]:
        if missing := [name for name in names if name not in value]:
            raise ValueError(f"{', '.join(missing)} is missing")
        return value

    return AfterValidator(check)


def _is_shaped(selection: SelectionRecord | None) -> SelectionRecord | None:
    """Refuse scores, deviations and similarities of different numbers of layers."""
    if selection is None:
        return None
    values = (selection.scores, selection.std, selection.matrix, *(selection.matrix or ()))
    if len({len(value) for value in values if value is not None}) > 1:
        raise ValueError("scores, std and matrix are of different numbers of layers")
    return selection


Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]
Whole = Annotated[int, Field(ge=-LARGEST, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Duration = Annotated[float, Field(ge=1e-12, le=LARGEST, allow_inf_nan=False)]  # seconds of what took some
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Plain = Annotated[Any, AfterValidator(_plain)]
Scores = Annotated[dict[str, float | str | None], PlainValidator(_scores)]  # metric -> fraction or null
PerLayer = tuple[Number | None, ...]  # None = not finite


@dataclass(frozen=True)
class SpecRecord:
    """What was asked, for reading; tables select by `identity.config_sha256`."""

    model: Name
    task: Name
    method: Name
    k: Count | None
    seed: Whole
    protocol: Name
    train: Name  # published | fast
    grid: Name  # paper | fair
    stage: Name  # run | score
    overrides: tuple[str, ...] = ()  # the command line


@dataclass(frozen=True)
class VersionsRecord:
    """Integers raised by hand when numbers change; a record with other ones is stale.

    A change that can change a number raises the version of the model, task or method that it concerns, in its
    YAML, or that of the mode (configs/train) where it concerns training as a whole. results/README.md lists
    what was raised and which records that left behind.
    """

    schema: Whole
    model: Whole
    task: Whole
    method: Whole
    train: Whole | None = None  # of the mode; None: nothing was trained, or written before it was counted (1)


@dataclass(frozen=True)
class IdentityRecord:
    """Which configuration and which code made the record."""

    config_sha256: str  # of the identity: all that can change a number, except data and weights
    git_commit: str | None  # None outside a git checkout
    git_dirty: bool | None  # tracked code differed from the commit (records and documents aside)


@dataclass(frozen=True)
class EnvRecord:
    """Where it ran."""

    python: str
    torch: str
    transformers: str
    datasets: str | None
    peft: str | None
    device_name: str
    device_memory_bytes: Count | None
    precision: str  # fp32 | bf16; fp32 too where bf16 was asked of a CUDA device that has none
    determinism: str  # seeded | deterministic
    num_processes: Count
    num_threads: Count
    tf32: bool | None = None  # CUDA: whether fp32 matrices are multiplied in TF32; None: a CPU, or older
    precision_reason: str | None = None  # why the precision is not the one asked for; None: it is, or older


@dataclass(frozen=True)
class DataRecord:
    """Which rows answered."""

    source: str  # hub:<id> | local | synthetic; several are joined by " + "
    revision: str | None  # of the hub
    status: str  # official, or what is special: subset, own-split, surrogate, local ...; joined by " + "
    fingerprint_sha256: str  # of the rows used: texts and labels, in order, training rows first
    counts: Annotated[dict[str, Count], _with_keys("train")]  # train and each evaluation set -> rows
    labels: tuple[str, ...]  # canonical order
    truncated_fraction: Fraction  # rows cut to max_length


@dataclass(frozen=True)
class ModelRecord:
    """Which weights, and what of them was trained."""

    source: str
    revision: str | None
    weights: str  # sha256 of the files, or hub id at revision
    parameters: Positive  # all, head included
    # backbone, head, added: as the first phase starts. After training also at_once, the most with a gradient
    # in one step, and touched, all that ever had one (the first records lack both).
    trainable: Annotated[dict[str, Count], _with_keys("backbone", "head", "added")]
    unused: Count  # parameters in no computation (a pooler built to match a count)
    lowest_trained_layer: Count | None  # over the run: 1..L; 0 = embeddings; None = the head alone
    facts: dict[str, Plain] = field(default_factory=dict)  # what the method has to say of itself
    tokenizer_key: str | None = None  # sha256 of what the tokenizer does to text (the first records lack it)

    @property
    def num_trainable(self) -> int:
        """Trainable parameters as training starts, wherever they lie."""
        return sum(self.trainable[place] for place in ("backbone", "head", "added"))

    @property
    def trainable_share(self) -> float:
        """The same as a share of all parameters."""
        return self.num_trainable / self.parameters


@dataclass(frozen=True)
class SelectionRecord:
    """How the layers were chosen."""

    scorer: str | None
    selector: str | None
    scores: PerLayer | None  # [L]
    std: PerLayer | None  # [L], over examples
    matrix: tuple[PerLayer, ...] | None  # [L][L]
    layers: tuple[Positive, ...] | None  # 1-based, ascending
    examples: Count  # rows scored; 0 without a scorer
    seconds: Amount  # cost of scoring when first computed
    reused: bool  # taken from disk


@dataclass(frozen=True)
class CacheRecord:
    """The frozen-prefix cache of train=fast; its cost is counted even when it was reused."""

    used: bool = False
    reused: bool = False  # taken from disk: seconds are those of the run that made it
    seconds: Amount = 0.0
    cpu_seconds: Amount = 0.0
    bytes: Count = 0
    layer: Count | None = None  # training starts at this layer; L + 1 = only the head is left
    dtype: str | None = None  # how states are stored: bf16 | fp32 | fp8
    place: str | None = None  # device | memory | disk, with the reason
    reason: str | None = None  # why it was not used, under train=fast


@dataclass(frozen=True)
class TrainingRecord:
    """How it trained, and its cost: `seconds` is the loop alone, without selection, cache or evaluation."""

    learning_rate: Amount
    head_learning_rate: Amount | None  # None = learning_rate
    batch_size: Positive
    micro_batch: Positive | None
    epochs: Count
    steps: Count  # optimiser steps
    origin: dict[str, str]  # train.* value -> where it came from
    history: tuple[
        dict[str, Plain], ...
    ]  # per epoch: epoch, steps, loss, seconds, evaluation_seconds, metrics
    seconds: Amount
    cpu_seconds: Amount
    seconds_per_step_median: Duration | None
    examples_per_second: Amount
    tokens_per_second: Amount  # real tokens, padding aside
    peak_memory_bytes: Count | None
    cache: CacheRecord = field(default_factory=CacheRecord)
    evaluation_seconds: Amount | None = None  # after each epoch and for the read-outs; None: an older record
    graphs: str | None = None  # CUDA: "captured", or why steps were not, or no more; None: on a CPU, or older


@dataclass(frozen=True)
class MetricsRecord:
    """Both read-outs, as fractions: task -> metric -> value."""

    last: dict[str, Scores]  # text only as `<metric>_reason`, where a metric is null
    # The same, plus "epoch": the best one on the split of each epoch. None: nothing was generated by epoch.
    best: Annotated[dict[str, Any] | None, PlainValidator(_best)]
    # Generation: file in outputs_dir/predictions with the outputs behind `last` or `best` -> its sha256, null
    # where it is gone. The texts are those of the data and stay out of git. None: nothing was generated, or
    # one of the first records.
    outputs: dict[str, str | None] | None = None

    def at(self, readout: str) -> dict[str, dict[str, float | str | None]]:
        """Return task -> metric -> value at the read-out `last` or `best`; the task's own split is first."""
        found = self.last if readout == "last" else self.best or {}
        return {task: scores for task, scores in found.items() if task != "epoch"}


@dataclass(frozen=True)
class ChecksRecord:
    """Proof that the method did what it says: true, false, or null where it does not apply."""

    frozen_unchanged: bool | None  # frozen tensors are bit-identical after training
    trained_changed: bool | None  # every trained tensor that received a gradient changed
    loss_finite: bool | None
    trainable_matches_selection: bool | None
    beats_majority: bool | None  # a fact, never a failure

    def failures(self) -> list[str]:
        """Names of the checks whose failure fails a run."""
        return [
            f.name
            for f in dataclasses.fields(self)
            if f.name != "beats_majority" and getattr(self, f.name) is False
        ]


@dataclass(frozen=True)
class TrackingRecord:
    """The Weights & Biases mirror."""

    wandb_id: str | None
    wandb_mode: str


@dataclass(frozen=True)
class Record:
    """One run. Sections stay None when the run ended before they were known."""

    schema: Annotated[int, Field(ge=SCHEMA, le=SCHEMA)]
    run_id: Name
    status: Status
    created_at: str  # UTC, ISO 8601
    error: str | None  # traceback of a failed run
    spec: SpecRecord
    versions: VersionsRecord
    config: dict[str, Plain]  # the resolved configuration; local paths cut to their last component
    identity: IdentityRecord
    env: EnvRecord | None = None
    data: DataRecord | None = None
    model: ModelRecord | None = None
    selection: Annotated[SelectionRecord | None, AfterValidator(_is_shaped)] = None
    training: TrainingRecord | None = None
    metrics: MetricsRecord | None = None
    checks: ChecksRecord | None = None
    tracking: TrackingRecord | None = None

    @cached_property
    def run(self) -> RunConfig | None:
        """The run that made it, rebuilt from its configuration.

        None where this version has no such configuration, or where it is not the one of `identity`.
        """
        run = run_of(self.config)
        return run if run is not None and run.config_sha256 == self.identity.config_sha256 else None

    @property
    def data_status(self) -> str:
        """Whose rows: official, subset, own-split ..."""
        return "unknown" if self.data is None else self.data.status

    @property
    def is_official(self) -> bool:
        """Whether the rows are those of the official data."""
        return self.data_status == OFFICIAL

    @property
    def fingerprint(self) -> str:
        """Hash of the rows used; "" where the run ended before they were read."""
        return "" if self.data is None else self.data.fingerprint_sha256

    @property
    def weights(self) -> str:
        """Which weights: a hub id at its revision, or the hash of local files; "" where none were loaded."""
        return "" if self.model is None else self.model.weights

    @property
    def is_on_cpu(self) -> bool:
        """Whether it ran without a device that has memory of its own."""
        return self.env is None or self.env.device_memory_bytes is None

    @property
    def device(self) -> str:
        """Name of the device; of a CPU with the number of threads, which decides its speed."""
        if self.env is None:
            return "unknown"
        threads = f", {self.env.num_threads} thread{'' if self.env.num_threads == 1 else 's'}"
        return f"{self.env.device_name}{threads if self.is_on_cpu else ''}"

    @property
    def seconds(self) -> dict[str, float]:
        """What it cost: choosing layers, the cache of frozen ones (as first computed, both), training."""
        training, chosen = self.training, self.selection
        return {
            "choosing": 0.0 if chosen is None else chosen.seconds,
            "cache": 0.0 if training is None else training.cache.seconds,
            "training": 0.0 if training is None else training.seconds,
        }

    @property
    def failed_checks(self) -> list[str]:
        """Names of the checks that prove the method's work and are false."""
        return [] if self.checks is None else self.checks.failures()

    @property
    def last_line(self) -> str:
        """Why a run did not finish: what its traceback ends with, empty where nothing is said."""
        return (self.error or "").strip().rpartition("\n")[2]

    @property
    def is_below_majority(self) -> bool:
        """Whether the score is at or below always answering the most frequent class."""
        return self.checks is not None and self.checks.beats_majority is False

    @property
    def has_no_best(self) -> bool:
        """Whether the run was evaluated and no epoch could be best."""
        return self.metrics is not None and not self.metrics.best

    def metric(self, readout: str, evaluation: str, name: str) -> float | None:
        """Return one metric on an evaluation set as a fraction, None where there is none."""
        value = self._scores(readout, evaluation).get(name)
        return value if isinstance(value, float) else None

    def reason(self, readout: str, evaluation: str, name: str) -> str | None:
        """Return why a metric is null, where the record says so."""
        value = self._scores(readout, evaluation).get(f"{name}_reason")
        return value if isinstance(value, str) else None

    def headline(self, readout: str = "last") -> tuple[str, float | None]:
        """Return name and value of the task's own split's first metric; "" and None where there is none."""
        found = {} if self.metrics is None else self.metrics.at(readout)
        in_domain = next(iter(found.values()), {})
        name = next(iter(in_domain), "")
        value = in_domain.get(name)
        return name, value if isinstance(value, float) else None

    def _scores(self, readout: str, evaluation: str) -> dict[str, float | str | None]:
        return {} if self.metrics is None else self.metrics.at(readout).get(evaluation, {})

    def to_json(self) -> str:
        """Return the record as JSON; numbers that are not finite, or beyond LARGEST, become null."""
        tree = jsonable(dataclasses.asdict(self))
        return json.dumps(tree, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: Path) -> Path:
        """Write the record atomically.

        Raises:
            OSError: it cannot be written; an earlier record at `path` stays as it was.
        """
        return write_atomic(path, self.to_json().encode("utf-8"))


def read_record(path: Path) -> Record:
    """Read and validate a record.

    Raises:
        RecordError: there is no such file, or it is no complete and plausible record of this schema.
    """
    try:
        if not path.is_file():
            raise RecordError(path, "is no file")
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(path, f"cannot be read ({error.strerror})") from error
    try:
        record: Record = _adapter(Record).validate_json(content, strict=True, extra="forbid")
    except ValidationError as error:
        raise RecordError(path, _reason(error)) from error
    if record.status == "done" and (unsaid := _unsaid(record)):
        raise RecordError(path, f"is not a valid record: it is done, and says nothing of {', '.join(unsaid)}")
    return record


def run_of(config: Mapping[str, Any]) -> RunConfig | None:
    """Return the run of a configuration as it was printed; None where this version has no such one."""
    try:
        run: RunConfig = _adapter(RunConfig).validate_json(json.dumps(config), strict=True, extra="forbid")
    except ValidationError:
        return None
    return run


Read = TypeVar("Read", Record, RunConfig)


@cache
def _adapter(kind: type[Read]) -> TypeAdapter[Read]:
    return TypeAdapter(kind)


def _unsaid(record: Record) -> list[str]:
    """Return the sections that a finished run fills and this record leaves empty."""
    needed = ("env", "data", "model", "training" if record.spec.stage == "run" else "selection")
    return [name for name in needed if getattr(record, name) is None]


def _reason(error: ValidationError) -> str:
    """Say what is wrong with the content of a file: its JSON, its schema, else the first field that is."""
    faults = error.errors(include_url=False)
    first = next((fault for fault in faults if fault["loc"] == ("schema",)), faults[0])
    kind, where, given = first["type"], ".".join(map(str, first["loc"])), first["input"]
    if kind == "json_invalid":
        return f"is not a complete record ({first['msg']})"
    if where == "":
        return f"is not a record (its JSON is a {type(given).__name__})"
    if where == "schema":
        found = "none" if kind == "missing" else _shown(given)
        return f"has schema {found}; this version reads schema {SCHEMA}"
    if kind == "unexpected_keyword_argument":
        return f"is not a valid record: {where} does not exist"
    if kind == "missing":
        return f"is not a valid record: {where} is missing"
    shown = "" if isinstance(given, dict | list) else f"={_shown(given)}"
    return f"is not a valid record: {where}{shown}: {first['msg'].removeprefix('Value error, ')}"


def _shown(value: Any) -> str:
    """Return a short form of any value that JSON can hold."""
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "an integer of many digits"
    return f"{value!r:.60}"


def jsonable(value: Any) -> Any:
    """Return nested values as JSON holds them: tuples as lists, None for a number beyond LARGEST or nan."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not abs(value) <= LARGEST:
        return None
    return value
