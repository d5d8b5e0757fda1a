"""One run's record, schema 1: what was asked, on which data and weights, what came out, and the proof that
it did.

Reading validates: an unknown key, a wrong type or half a file is an error that names the file. Writing is
atomic.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from layertune.config.build import build_dataclass
from layertune.config.files import write_atomic
from layertune.config.schema import ConfigError

SCHEMA = 1
Status = Literal["done", "failed", "oom", "interrupted"]


class RecordError(ValueError):
    """A record file that cannot be read as a complete record of this schema."""


@dataclass(frozen=True)
class SpecRecord:
    """What was asked, for reading; tables select by `identity.config_sha256`."""

    model: str
    task: str
    method: str
    k: int | None
    seed: int
    protocol: str
    train: str  # published | fast
    grid: str  # paper | fair
    stage: str  # run | score
    overrides: tuple[str, ...] = ()  # the command line


@dataclass(frozen=True)
class VersionsRecord:
    """Integers raised by hand when numbers change; a record with other ones is stale.

    A change that can change a number raises the version of the model, task or method that it concerns, in its
    YAML, or that of the mode (configs/train) where it concerns training as a whole. results/README.md lists
    what was raised and which records that left behind.
    """

    schema: int
    model: int
    task: int
    method: int
    train: int | None = None  # of the mode; None: nothing was trained, or written before it was counted (1)


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
    device_memory_bytes: int | None
    precision: str  # fp32 | bf16
    determinism: str  # seeded | deterministic
    num_processes: int
    num_threads: int


@dataclass(frozen=True)
class DataRecord:
    """Which rows answered."""

    source: str  # hub:<id> | local | synthetic
    revision: str | None
    status: str  # official | subset | own-split | surrogate | local | synthetic ...
    fingerprint_sha256: str  # of the rows used: texts and labels, in order
    counts: dict[str, int]  # train and each evaluation set -> rows
    labels: tuple[str, ...]  # canonical order
    truncated_fraction: float  # rows cut to max_length, 0..1


@dataclass(frozen=True)
class ModelRecord:
    """Which weights, and what of them was trained."""

    source: str
    revision: str | None
    weights: str  # sha256 of the files, or hub id at revision
    parameters: int  # all, head included
    # backbone, head, added: as the first phase starts. After training also at_once, the most with a gradient
    # in one step, and touched, all that ever had one (the first records lack both).
    trainable: dict[str, int]
    unused: int  # parameters in no computation (a pooler built to match a count)
    lowest_trained_layer: int | None  # over the run: 1..L; 0 = embeddings; None = the head alone
    facts: dict[str, Any] = field(default_factory=dict)  # what the method has to say of itself

    @property
    def num_trainable(self) -> int:
        """Trainable parameters as training starts, wherever they lie."""
        return sum(self.trainable[place] for place in ("backbone", "head", "added"))


@dataclass(frozen=True)
class SelectionRecord:
    """How the layers were chosen."""

    scorer: str | None
    selector: str | None
    scores: tuple[float | None, ...] | None  # [L]; None within = not finite
    std: tuple[float | None, ...] | None  # [L], over examples
    matrix: tuple[tuple[float | None, ...], ...] | None  # [L][L]
    layers: tuple[int, ...] | None  # 1-based, ascending
    examples: int  # rows scored; 0 without a scorer
    seconds: float  # cost of scoring when first computed
    reused: bool  # taken from disk


@dataclass(frozen=True)
class CacheRecord:
    """The frozen-prefix cache of train=fast; its cost is counted even when it was reused."""

    used: bool = False
    reused: bool = False  # taken from disk: seconds are those of the run that made it
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes: int = 0
    layer: int | None = None  # training starts at this layer; L + 1 = only the head is left
    dtype: str | None = None  # how states are stored: bf16 | fp32 | fp8
    place: str | None = None  # device | memory | disk, with the reason
    reason: str | None = None  # why it was not used, under train=fast


@dataclass(frozen=True)
class TrainingRecord:
    """How it trained, and its cost: `seconds` is the loop alone, without selection, cache or evaluation."""

    learning_rate: float
    head_learning_rate: float | None  # None = learning_rate
    batch_size: int
    micro_batch: int | None
    epochs: int
    steps: int  # optimiser steps
    origin: dict[str, str]  # train.* value -> where it came from
    history: tuple[dict[str, Any], ...]  # per epoch: epoch, steps, loss, seconds, metrics by task
    seconds: float
    cpu_seconds: float
    seconds_per_step_median: float | None
    examples_per_second: float
    tokens_per_second: float  # real tokens, padding aside
    peak_memory_bytes: int | None
    cache: CacheRecord = field(default_factory=CacheRecord)


@dataclass(frozen=True)
class MetricsRecord:
    """Both read-outs, as fractions: task -> metric -> value."""

    last: dict[str, dict[str, float | str | None]]  # text only as `<metric>_reason`, where a metric is null
    # The same, plus "epoch": the best one on the split of each epoch. None: nothing was generated by epoch.
    best: dict[str, Any] | None
    # Generation: file in outputs_dir/predictions with the outputs behind `last` or `best` -> its sha256, null
    # where it is gone. The texts are those of the data and stay out of git. None: nothing was generated, or
    # one of the first records.
    outputs: dict[str, str | None] | None = None


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

    schema: int
    run_id: str
    status: Status
    created_at: str  # UTC, ISO 8601
    error: str | None  # traceback of a failed run
    spec: SpecRecord
    versions: VersionsRecord
    config: dict[str, Any]  # the resolved configuration; local paths cut to their last component
    identity: IdentityRecord
    env: EnvRecord | None = None
    data: DataRecord | None = None
    model: ModelRecord | None = None
    selection: SelectionRecord | None = None
    training: TrainingRecord | None = None
    metrics: MetricsRecord | None = None
    checks: ChecksRecord | None = None
    tracking: TrackingRecord | None = None

    def to_json(self) -> str:
        """Return the record as JSON; numbers that are not finite become null."""
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
        RecordError: the file is cut off, is not JSON, is of another schema or does not have the schema's
        types.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise RecordError(
            f"{path} is not a complete record ({error}); delete it, or run again with force=true."
        ) from error
    if not isinstance(tree, dict) or tree.get("schema") != SCHEMA:
        found = tree.get("schema") if isinstance(tree, dict) else type(tree).__name__
        raise RecordError(f"{path} has schema {found!r}; this version reads schema {SCHEMA}.")
    try:
        record: Record = build_dataclass(Record, tree, "")
    except (ConfigError, TypeError) as error:
        raise RecordError(f"{path} is not a valid record: {error}") from error
    return record


def jsonable(value: Any) -> Any:
    """Return nested values as JSON holds them: tuples as lists, numbers that are not finite as None."""
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
