"""The groups of a run's configuration: frozen values, no behaviour beyond small derived properties.

What its parts share, and which fields make the identity of a run: `layertune.config.schema_base`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from layertune.config.schema_base import (
    Amount,
    Betas,
    Count,
    Folder,
    GridName,
    Line,
    Name,
    Norm,
    Project,
    Rate,
    Rates,
    Share,
    Source,
    Text,
    Threads,
    TrainDefaults,
    Whole,
    always_identity,
    between,
    listing,
    not_identity,
    resolved_later,
)

Parameters = Annotated[float, between(0, 1e15, above=True)]
Precisions = Annotated[tuple[Literal["fp32", "bf16"], ...], listing(1, 2, "(at least one)")]


@dataclass(frozen=True)
class TrainSpec:
    """How the loop trains. The command line may leave a value None; `resolve_training` fills it."""

    mode: Literal["published", "fast"] = "published"  # identity: `fast` changes numbers
    version: int = not_identity(1)  # of the mode: raised when training of every method gives other numbers
    epochs: Count | None = None
    batch_size: Count | None = None  # the effective batch: micro_batch only splits it
    learning_rate: Rate | None = None
    head_learning_rate: Rate | None = None  # None = the backbone's rate
    betas: Betas | None = None
    weight_decay: Share | None = None
    schedule: Literal["linear", "cosine", "constant"] | None = None
    warmup_ratio: Share | None = None
    clip_norm: Norm | None = None  # None = no clipping
    label_smoothing: Share | None = None
    precision: Literal["fp32", "bf16", "auto"] | None = None  # auto: resolved before anything is named by it
    micro_batch: Count | None = not_identity()  # examples per forward pass; None = batch_size
    eval_batch_size: Count = not_identity(64)
    deterministic: bool = not_identity(False)  # an error where an operation has no deterministic form
    activation_checkpointing: bool = not_identity(False)
    device: Literal["auto", "cpu", "cuda"] = not_identity("auto")
    graphs: Literal["auto", "off"] = not_identity("auto")  # of steps on a CUDA device
    num_threads: Threads | None = not_identity()  # CPU threads; None = torch's default


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a model in numbers, from which `make plan` estimates time and memory."""

    hidden: Count
    layer_parameters: Parameters  # of one layer
    parameters: Parameters  # of the whole model


@dataclass(frozen=True)
class ModelSpec:
    """One pretrained language model (configs/model)."""

    name: Name = always_identity("")
    title: Text = not_identity("")
    version: Count = not_identity(1)
    family: Literal["encoder", "decoder"] = not_identity("encoder")
    source: Source = not_identity("")  # hub id | "package:<import name>:<folder>" | "random"
    revision: Line | None = not_identity()
    path: Folder | None = not_identity()  # a local folder that holds the same weights
    num_layers: Whole = not_identity(0)  # verified when the weights are loaded
    max_positions: Count | None = not_identity()  # longest input, special tokens included
    sizes: ModelSizes | None = not_identity()
    layers: Line | None = not_identity()  # dotted path of the block list, where finding it by structure fails
    attention: Line | None = not_identity()  # attn_implementation; None = sdpa where it exists, else eager
    precisions: Precisions = not_identity(("fp32", "bf16"))
    random_config: dict[str, Any] | None = not_identity()  # source "random": the architecture's configuration
    pooler: bool = not_identity(False)  # build the unused pooler, only to match the paper's parameter count
    representative: Literal["first", "last"] | None = None  # None = first for encoders, last for decoders
    # Choice: [last layer of decoders] the state after the final norm, as the library returns it | before it.
    last_layer: Literal["library", "raw"] = "library"
    # Choice: [decoders that classify] Table 6 does not say how: with the head of the encoders (§4.3).
    head: Literal["concat", "pooled"] = "concat"
    head_dropout: Share = 0.3  # Paper: §4.3
    rep_norm: Literal["none", "rms"] = "none"  # parameter-free normalisation of the representative vectors
    # Choice: [final norm of decoders] frozen in generation; the released code trains it.
    train_final_norm: bool = False

    @property
    def representative_token(self) -> str:
        """Which token stands for a sequence: `first`, or the `last` real one."""
        return self.representative or ("first" if self.family == "encoder" else "last")


@dataclass(frozen=True)
class MethodSpec:
    """What is trained (configs/method).

    `options` holds every further key of the method's YAML, typed by its value there. An option that is null
    or false is neutral and stays out of the identity.
    """

    name: Name = always_identity("")
    title: Text = not_identity("")
    version: Count = not_identity(1)
    kind: Line = not_identity("")  # key of METHODS, or a dotted path
    scorer: Line | None = None  # key of SCORERS, or a dotted path
    selector: Line | None = None  # key of SELECTORS, or a dotted path
    k: int | None = None
    head: Literal["concat", "pooled"] | None = None  # overrides the model's head
    options: dict[str, Any] = field(default_factory=dict)
    # Rates where they differ from what layertune.config.grids gives every method:
    grids: dict[GridName, Rates] = not_identity(factory=dict)  # grid -> rates for a search
    grid_rates: dict[GridName, Rate] = not_identity(factory=dict)  # grid -> rate without a search
    task_rates: dict[Name, Rate] = not_identity(factory=dict)  # task -> the same, under grid=fair
    head_rates: dict[GridName, Rate] = not_identity(factory=dict)  # grid -> the head's rate, if another
    recipe_of: Name | None = not_identity()  # the method whose recipe holds where this one has none
    train: TrainDefaults = not_identity(factory=TrainDefaults)


@dataclass(frozen=True)
class ProtocolSpec:
    """How much data, which split, and where the record goes (configs/protocol)."""

    name: Name = always_identity("paper")
    title: Text = not_identity("")
    train_examples: Count | None = None  # at most so many training rows (seeded, stratified by label)
    eval_examples: Count | None = None
    eval_meanings: Count | None = None  # generation, in place of eval_examples: the first distinct ones
    dev_meanings: Count | None = None  # the same for the split scored after each epoch
    holdout: Count | None = None  # evaluate on a held-out tenth of train, at most so many rows
    warmup_steps: Whole | None = None  # timing: untimed steps first
    max_steps: Count | None = None  # timing: then so many timed steps on fixed batches
    evaluate: bool = True  # timing: no evaluation
    every_epoch: bool = True  # False: only the last epoch is evaluated
    tracked: bool = not_identity(True)  # results/runs (tracked by git) or outputs/records (scratch)
    train: TrainDefaults = not_identity(factory=TrainDefaults)


@dataclass(frozen=True)
class ScoringSpec:
    """How layers are scored."""

    # Rows of the training split that are scored; None = what the task proposes, else all, as in the paper.
    # adaptive (what None means with train=fast): as few as decide the set of layers.
    examples: Count | Literal["all", "adaptive"] | None = resolved_later("all")
    batch_size: Count = not_identity(64)
    # Which tokens I/O similarity (None = all) and feature variance (None = representative) read.
    tokens: Literal["all", "representative"] | None = None


@dataclass(frozen=True)
class CacheSpec:
    """The frozen-prefix cache of train=fast."""

    # Choice: [cached states (`train=fast`)] 16 bits take half the room of 32.
    dtype: Literal["bf16", "fp32", "fp8"] = "bf16"
    layer: Count | None = None  # states entering it at the latest are kept; None = the run's own lowest
    max_gb: Amount = not_identity(20.0)  # of all entries together; what was unused for longest goes first
    # Choice: [where a cache lies (`train=fast`)] what it is read from; `auto` = the fastest that has room.
    place: Literal["auto", "device", "memory", "disk"] = not_identity("auto")


@dataclass(frozen=True)
class TrackingSpec:
    """Where Weights & Biases mirrors the run (configs/tracking)."""

    mode: Literal["online", "offline", "disabled"] = "offline"
    project: Project = "layertune"
    entity: Project | None = None


@dataclass(frozen=True)
class CheckpointSpec:
    """Resumable state of a run."""

    every_steps: Count | None = None  # None = no checkpoint
