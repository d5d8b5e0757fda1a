"""The typed configuration of one task (configs/task): its rows, its labels, its metric, how it is encoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from layertune.config.schema_base import (
    LARGEST_COUNT,
    Allowed,
    Amount,
    Count,
    File,
    Line,
    Name,
    Number,
    Text,
    TrainDefaults,
    Whole,
    always_identity,
    between,
    listing,
    not_identity,
    one_of,
)

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
