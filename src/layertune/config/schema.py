"""The typed configuration of a run: its groups as frozen values, and what each value may be.

Every field that can change a number is part of the run's identity unless it carries `not_identity()`. The
default of an identity field is its *neutral* value (today's behaviour): a field at its default is left out
of the identity, so an option added later leaves the identities of old records as they are
(`layertune.config.identity`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args


def not_identity(default: Any = None, factory: Any = None) -> Any:
    """Return a field that does not enter the identity of a run (paths, devices, speed switches, titles)."""
    if factory is not None:
        return field(default_factory=factory, metadata={"identity": False})
    return field(default=default, metadata={"identity": False})


def always_identity(default: Any) -> Any:
    """Return a field that enters the identity even at its default: what a reader expects to find there."""
    return field(default=default, metadata={"identity": "always"})


def resolved_later(neutral: Any) -> Any:
    """Return a field that is None until resolved; resolved to `neutral`, it stays out of the identity."""
    return field(default=None, metadata={"neutral": neutral})


def derived(factory: Any) -> Any:
    """Return a field that follows from the others and that nobody gives; it does not enter the identity."""
    return field(default_factory=factory, metadata={"identity": False, "derived": True})


# -- what a value may be, beyond its type -------------------------------------------------------------------

LARGEST_COUNT = 10**9  # of whole numbers without a limit of their own


@dataclass(frozen=True)
class Allowed:
    """Marks a type (`Annotated[int, Allowed(...)]`): which of its values are allowed, and how one says so."""

    holds: Callable[[Any], bool]
    words: str


def between(low: float, high: float, *, above: bool = False, below: bool = False) -> Allowed:
    """Allow numbers from `low` to `high`, without `low` if `above`, without `high` if `below`."""

    def holds(value: float) -> bool:  # false for NaN
        return (low < value if above else low <= value) and (value < high if below else value <= high)

    end = f"{'below ' if below else 'at most ' if above else ''}{high:,}"
    return Allowed(holds, f"above {low:,} and {end}" if above else f"from {low:,} to {end}")


def matching(pattern: str, words: str) -> Allowed:
    """Allow texts that match a pattern from end to end."""
    compiled = re.compile(pattern, re.ASCII)
    return Allowed(lambda text: compiled.fullmatch(text) is not None, words)


def one_of(*names: str) -> Allowed:
    """Allow these texts; a Literal does the same where the type checker is to know them."""
    return Allowed(lambda text: text in names, f"({', '.join(names)})")


def listing(low: int, high: int, words: str) -> Allowed:
    """Allow lists of so many entries, each of them once."""
    return Allowed(lambda entries: low <= len(entries) <= high and len(set(entries)) == len(entries), words)


Count = Annotated[int, between(1, LARGEST_COUNT)]
Whole = Annotated[int, between(0, LARGEST_COUNT)]
Seed = Annotated[int, between(0, 2**32 - 1)]
Threads = Annotated[int, between(1, 1024)]  # torch ends in a segmentation fault with 100,000
Number = Annotated[float, between(-1e9, 1e9)]
Amount = Annotated[float, between(0, 1e9)]
Norm = Annotated[float, between(0, 1e9, above=True)]
Rate = Annotated[float, between(0, 1, above=True, below=True)]
Share = Annotated[float, between(0, 1, below=True)]
Rates = Annotated[tuple[Rate, ...], listing(1, 100, "(at least one, each once)")]
Betas = Annotated[tuple[Share, ...], Allowed(lambda betas: len(betas) == 2, "(AdamW takes two)")]

# Names become parts of file names: a run's record, its predictions, the folder of a data set.
NAME = matching(r"\w[\w.-]{0,59}", "of at most 60 letters, digits and _ . -")
Name = Annotated[str, NAME]
Text = Annotated[str, matching(r"(?s:.*\S.*)", "that is not empty")]
Line = Annotated[str, matching(r"[^\n\r\t]{1,300}", "on one line, of at most 300 characters")]
Source = Annotated[
    str,
    matching(r"(?s:package:.*)|\w[\w.-]*(/\w[\w.-]*)?", "naming a model on the hub (a folder is model.path)"),
]
Project = Annotated[str, matching(r"[^/\\#?%:\s]{1,128}", "without spaces and / \\ # ? % :")]  # W&B's rule


@dataclass(frozen=True)
class IsPath:
    """Marks a text that names a file or folder of this machine: records keep its last component alone."""


def _can_be_path(text: str) -> bool:
    longest = max(len(part.encode()) for part in text.split("/"))
    return 0 < len(text) < 4000 and longest <= 255 and not {"\n", "\r", "\t"} & set(text)


Folder = Annotated[
    str, Allowed(_can_be_path, "naming a folder on one line, at most 255 bytes a part"), IsPath()
]
File = Annotated[str, Allowed(_can_be_path, "naming a file on one line, at most 255 bytes a part"), IsPath()]

Grid = Literal["paper", "fair", "tuned"]
GridName = Annotated[str, one_of(*get_args(Grid))]


@dataclass(frozen=True)
class TrainDefaults:
    """Training values that a task, method, protocol or recipe proposes; None proposes nothing."""

    epochs: Count | None = None
    batch_size: Count | None = None
    learning_rate: Rate | None = None
    head_learning_rate: Rate | None = None
    betas: Betas | None = None
    weight_decay: Share | None = None
    schedule: Literal["linear", "cosine", "constant"] | None = None
    warmup_ratio: Share | None = None
    clip_norm: Norm | None = None
    label_smoothing: Share | None = None
    precision: Literal["fp32", "bf16"] | None = None


# Metrics by the kind of task that has them; what computes them is in layertune.evaluation.
METRICS_OF_KIND: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "f1_macro", "f1_binary", "mcc"),
    "regression": ("pearson", "spearman"),
    "generation": ("bleu", "nist", "meteor", "rouge_l", "cider"),
}
Metric = Annotated[str, one_of(*(name for names in METRICS_OF_KIND.values() for name in names))]
Labels = Annotated[tuple[Line, ...], listing(0, 10_000, "(each once)")]
Columns = Annotated[tuple[Line, ...], listing(1, 2, "(one column, or two different ones)")]
LabelRange = Annotated[
    tuple[Number, ...],
    Allowed(lambda ends: not ends or (len(ends) == 2 and ends[0] < ends[1]), "(the lowest, the highest)"),
]
Length = Annotated[int, between(8, LARGEST_COUNT)]  # below it special tokens leave no room for two texts
Beams = Annotated[int, between(1, 1000)]
Penalty = Annotated[float, between(-100, 100)]


@dataclass(frozen=True)
class HubSource:
    """Where a task lives on the hub and how its rows read there."""

    id: Line = ""
    config: Line | None = None
    revision: Line | None = None  # None = no verified pin: counts are asserted instead
    splits: dict[Name, Line] = field(default_factory=dict)  # our split -> the hub's split name or slice
    data_files: dict[Line, Line] | None = None  # hub split -> file pattern, where a plain load would be wrong
    columns: dict[Line, Line] = field(default_factory=dict)  # our column -> the hub's
    label_names: Labels = ()  # the hub's integer labels by name, in the hub's order
    label_strings: dict[str, str] | None = None  # the hub's string labels -> our names
    drop_labels: tuple[int, ...] = ()  # rows without a gold label (SNLI: -1)
    where: dict[str, dict[str, str]] | None = None  # our split -> column values that select its rows
    pool: tuple[Line, ...] = ()  # hub splits to pool and redraw with `test_size` (no official split)
    test_size: Count | None = None
    counts: dict[Name, Count] = field(default_factory=dict)  # where the copy's rows differ from the task's
    status: Line = "official"  # of the rows as we use them; anything else is marked in every table


@dataclass(frozen=True)
class DecodingSpec:
    """How a generation task's outputs are made: beam search as in the released code."""

    num_beams: Beams = 10
    length_penalty: Penalty = 0.8
    no_repeat_ngram: Whole = 0  # longest phrase that may come twice is one token shorter; 0 = no limit
    max_new_tokens: Count = 64
    stop: str = ""  # ends an output, as the end-of-sequence token does, where it is one token
    batch_size: Count = not_identity(16)  # meaning representations at once


@dataclass(frozen=True)
class OwnSpec:
    """Data of one's own (task=own): files, or a data set on the hub, and which of their columns are read."""

    train: File | None = None  # csv, tsv, jsonl or parquet; or the id of a data set on the hub
    eval: File | None = None  # None: the hub's own split, else a tenth of the training rows is held out
    revision: Line | None = None  # of a data set on the hub: commit, branch or tag
    text: Line = "text"
    text2: Line | None = None  # the second sentence of a pair
    label: Line = "label"
    regression: bool = False  # labels are numbers to predict, not classes


@dataclass(frozen=True)
class TaskSpec:
    """One data set, its metric, and how it is encoded (configs/task)."""

    name: Name = always_identity("")
    title: Text = not_identity("")
    version: Count = not_identity(1)
    data: Name | None = not_identity()  # whose rows are read, where not its own (sst2_imdb reads sst2)
    kind: Literal["classification", "regression", "generation"] = not_identity("classification")
    source: Literal["hub", "synthetic", "own"] = not_identity("hub")
    hub: HubSource | None = not_identity()
    columns: Columns = not_identity(("sentence",))  # sentence | sentence1, sentence2 | MR, reference
    labels: Labels = not_identity(())  # canonical order: index = label id
    metric: Metric = not_identity("accuracy")  # what a table prints; picks the best epoch, unless
    best_by: Metric | None = not_identity()  # this one does (the released code: accuracy)
    metrics: tuple[Metric, ...] = not_identity(())
    train_split: Name = "train"
    eval_split: Name = "validation"
    dev_split: Name | None = None  # scored after each epoch; eval_split then waits for the end
    counts: dict[Name, Count] = not_identity(factory=dict)  # expected rows per split of the official data
    label_counts: dict[Name, dict[Line, Whole]] | None = not_identity()  # split -> label name -> rows
    # Word pieces of BERT per training example, cut to max_length, of up to 3,000 rows; for `make plan`.
    mean_tokens: Amount | None = not_identity()
    label_range: LabelRange = not_identity(())  # regression: lowest and highest gold score
    max_length: Length = 256  # Choice: [maximum length] the released code's; 128 for MPQA, TREC and E2E
    # Choice: [segment ids] zeros for both sentences of a pair, as the released code, which never passes them.
    segment_ids: Literal["zeros", "standard"] = "zeros"
    # stage=score alone: what stands in place of each training text (layertune.tasks.control)
    control: Literal["none", "unk", "random", "other"] = "none"
    # Generation only, all five:
    meanings: dict[Name, Count] = not_identity(factory=dict)  # expected distinct representations per split
    format: Literal["code", "lora"] = "code"  # how representation and reference become one text
    # Choice: [E2E, scored layers] on pairs, at the end-of-sequence token after the reference | on prompts.
    score_text: Literal["full", "prompt"] = "full"
    score_examples: Count | None = not_identity()  # proposes scoring.examples
    decoding: DecodingSpec = field(default_factory=DecodingSpec)
    foreign: dict[Name, TaskSpec] = not_identity(factory=dict)  # cross-domain evaluation; the name says it
    train: TrainDefaults = not_identity(factory=TrainDefaults)

    @property
    def data_name(self) -> str:
        """Whose rows are read: the folder below a local data folder, and the key of the in-domain metrics."""
        return self.data or self.name

    @property
    def is_pair(self) -> bool:
        """Whether an example is two sentences."""
        return self.kind != "generation" and len(self.columns) == 2

    @property
    def num_outputs(self) -> int:
        """Outputs of the head: one per class, one for regression, none for generation."""
        return {"classification": len(self.labels), "regression": 1, "generation": 0}[self.kind]


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
    # Rates where they differ from what layertune.config.rates gives every method:
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
