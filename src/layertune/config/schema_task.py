"""The typed configuration of one task (configs/task): its rows, its labels, its metric, how it is encoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from layertune.config.schema_base import TrainDefaults, always_identity, not_identity


@dataclass(frozen=True)
class HubSource:
    """Where a task lives on the hub and how its rows read there."""

    id: str = ""
    config: str | None = None
    revision: str | None = None  # None = no verified pin: counts are asserted instead
    splits: dict[str, str] = field(default_factory=dict)  # our split -> the hub's split name or slice
    data_files: dict[str, str] | None = None  # hub split -> file pattern, where a plain load would be wrong
    columns: dict[str, str] = field(default_factory=dict)  # our column -> the hub's
    label_names: tuple[str, ...] = ()  # the hub's integer labels by name, in the hub's order
    label_strings: dict[str, str] | None = None  # the hub's string labels -> our names
    drop_labels: tuple[int, ...] = ()  # rows without a gold label (SNLI: -1)
    where: dict[str, dict[str, str]] | None = None  # our split -> column values that select its rows
    pool: tuple[str, ...] = ()  # hub splits to pool and redraw with `test_size` (no official split)
    test_size: int | None = None
    counts: dict[str, int] = field(default_factory=dict)  # where the copy's rows differ from the task's
    status: str = "official"  # of the rows as we use them; anything else is marked in every table


@dataclass(frozen=True)
class DecodingSpec:
    """How a generation task's outputs are made: beam search as in the released code."""

    num_beams: int = 10
    length_penalty: float = 0.8
    no_repeat_ngram: int = 0  # longest phrase that may come twice is one token shorter; 0 = no limit
    max_new_tokens: int = 64
    stop: str = ""  # ends an output, as the end-of-sequence token does, where it is one token
    batch_size: int = not_identity(16)  # meaning representations at once


@dataclass(frozen=True)
class TaskSpec:
    """One data set, its metric, and how it is encoded (configs/task)."""

    name: str = always_identity("")
    title: str = not_identity("")
    version: int = not_identity(1)
    data: str | None = not_identity()  # whose rows are read, where not its own (sst2_imdb reads sst2)
    kind: Literal["classification", "regression", "generation"] = not_identity("classification")
    source: Literal["hub", "synthetic"] = not_identity("hub")
    hub: HubSource | None = not_identity()
    columns: tuple[str, ...] = not_identity(("sentence",))  # sentence | sentence1, sentence2 | MR, reference
    labels: tuple[str, ...] = not_identity(())  # canonical order: index = label id
    metric: str = not_identity("accuracy")  # what a table prints; picks the best epoch unless `best_by` does
    best_by: str | None = not_identity()  # metric that picks the best epoch (the released code: accuracy)
    metrics: tuple[str, ...] = not_identity(())
    train_split: str = "train"
    eval_split: str = "validation"
    dev_split: str | None = None  # scored after each epoch; eval_split then waits for the end
    counts: dict[str, int] = not_identity(factory=dict)  # expected rows per split of the official data
    label_counts: dict[str, dict[str, int]] | None = not_identity()  # split -> label name -> rows
    label_range: tuple[float, ...] = not_identity(())  # regression: lowest and highest gold score
    max_length: int = 256  # Choice: [maximum length] the released code's; 128 for MPQA, TREC and E2E
    # Choice: [segment ids] zeros for both sentences of a pair, as the released code, which never passes them.
    segment_ids: Literal["zeros", "standard"] = "zeros"
    # Generation only, all five:
    meanings: dict[str, int] = not_identity(factory=dict)  # expected distinct representations per split
    format: Literal["code", "lora"] = "code"  # how representation and reference become one text
    # Choice: [E2E, scored layers] on pairs, at the end-of-sequence token after the reference | on prompts.
    score_text: Literal["full", "prompt"] = "full"
    score_examples: int | None = not_identity()  # proposes scoring.examples
    decoding: DecodingSpec = field(default_factory=DecodingSpec)
    foreign: dict[str, TaskSpec] = not_identity(factory=dict)  # cross-domain evaluation; the name says it
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
