"""`load_task`: the rows a run asks for, from the hub, a local folder or the generator, encoded and described.

First room of the flow. Which rows: the task's splits, cut as the protocol says. What they are: the
record's section `data`, so that no number is shown as the benchmark's when its data were not.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from layertune.config import RunConfig, TaskSpec
from layertune.config.files import resolved_data_dir
from layertune.config.identity import data_key
from layertune.errors import DataError
from layertune.records.record import OFFICIAL, DataRecord
from layertune.tasks.control import with_other_texts, with_other_tokens
from layertune.tasks.encode import Split
from layertune.tasks.hub import read_hub
from layertune.tasks.local import read_local
from layertune.tasks.meanings import Meanings, first_meanings, group_meanings, split_off_meanings
from layertune.tasks.own import OwnRows, read_own
from layertune.tasks.rows import Rows, split_off, subset
from layertune.tasks.synthetic import read_synthetic
from layertune.tasks.token_cache import encode_cached

log = logging.getLogger(__name__)

CUT_SEED = 0  # of subsets and held-out parts: the same rows for every run
HOLDOUT = "holdout"
HOLDOUT_SHARE = 10  # a tenth of train


@dataclass(frozen=True)
class TaskData:
    """Everything a run reads: training split, evaluation splits, what they are.

    The first evaluation split is scored after each epoch, the others at the last and at the best one:
    splits of foreign data sets, or the test split of a generation task.
    """

    train: Split
    evals: dict[str, Split]
    provenance: DataRecord
    num_outputs: int
    kind: str
    tokenizer: Any = None

    @property
    def extent(self) -> tuple[int, int]:
        """The largest token id, and the tokens of the longest example, of all splits."""
        stores = [split.store for split in (self.train, *self.evals.values())]
        largest = max(int(store.ids.max(initial=0)) for store in stores)
        return largest, max(int(store.lengths.max(initial=0)) for store in stores)

    @property
    def each_epoch(self) -> str:
        """Name of the evaluation split that is scored after each epoch and picks the best."""
        return next(iter(self.evals))


@dataclass(frozen=True)
class _Part:
    """Rows of one split on their way to the tokenizer."""

    spec: TaskSpec
    split: str
    rows: Rows
    status: str
    source: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """What its scores go by: the data set; the split for each epoch, where there is one, adds its own."""
        own = self.spec.data_name
        return f"{own}_{self.split}" if self.split == self.spec.dev_split else own

    @property
    def meanings(self) -> Meanings | None:
        """The distinct representations of a generation split; None elsewhere."""
        return group_meanings(self.rows) if self.spec.kind == "generation" else None


def load_task(run: RunConfig, tokenizer: Any, tokenizer_key: str) -> TaskData:
    """Return the encoded splits of a run and their provenance.

    Args:
        run: says task, protocol, `data_dir` and the cache folder.
        tokenizer: a fast tokenizer, as `load_tokenizer` returns it.
        tokenizer_key: sha256 of its content.

    Raises:
        ConfigError: a local file does not exist.
        DataError: rows cannot be had or are not what was announced.
    """
    parts = _protocol_parts(run)
    task = parts[0].spec  # with the labels that were found, where nobody named them
    fingerprints = [part.rows.fingerprint() for part in parts]
    splits: list[Split] = []
    for part, fingerprint in zip(parts, fingerprints, strict=True):
        store = encode_cached(
            part.rows, fingerprint, tokenizer, tokenizer_key, part.spec, run.cache_dir / "tokens"
        )
        if not splits and run.task.control in ("unk", "random"):  # of the training texts, which are scored
            store = with_other_tokens(store, tokenizer, run.task.control)
        splits.append(Split(part.name, part.split, store, part.meanings))
    train, *evals = splits
    total = sum(len(split) for split in splits)
    provenance = DataRecord(
        source=_joined(part.source for part in parts),
        revision=_joined(part.revision for part in parts if part.revision) or None,
        status=_joined(status for part in parts for status in part.status.split(" + ") if status != OFFICIAL)
        or OFFICIAL,
        fingerprint_sha256=hashlib.sha256(",".join(fingerprints).encode()).hexdigest(),
        counts={"train": len(train)} | {split.name: len(split) for split in evals},
        labels=tuple(task.labels),
        truncated_fraction=sum(split.store.truncated for split in splits) / total,
    )
    counts = ", ".join(f"{name} {count:,}" for name, count in provenance.counts.items())
    cut = 100 * provenance.truncated_fraction
    log.info("data: %s from %s (%s), %.2f %% of rows cut", counts, provenance.source, provenance.status, cut)
    by_name = {split.name: split for split in evals}
    return TaskData(train, by_name, provenance, task.num_outputs, task.kind, tokenizer)


def rows_of(run: RunConfig) -> tuple[Rows, Rows]:
    """Return the rows that a run trains on and those that are scored after each epoch, as they are read.

    Raises: as `load_task`.
    """
    train, held_out, *_ = _protocol_parts(run)
    return train.rows, held_out.rows


def _protocol_parts(run: RunConfig) -> list[_Part]:
    """Read the splits a protocol asks for, training rows first, and cut them."""
    protocol, read = run.protocol, _reader(run)
    train = read(run.task, run.task.train_split)
    task = train.spec
    if protocol.holdout is not None:
        count = max(1, min(len(train.rows) // HOLDOUT_SHARE, protocol.holdout))
        divide = split_off_meanings if task.kind == "generation" else split_off
        rest, held_out = divide(train.rows, count, CUT_SEED)
        evals = [_Part(task, HOLDOUT, held_out, train.status, train.source, train.revision)]
        if not len(rest) or not len(held_out):
            raise DataError(
                f"The {train.split} split of {task.data_name} is too small for protocol={protocol.name}, "
                f"which holds out a part of it: of {len(train.rows)} rows {len(rest)} are left to train on."
            )
        train = _Part(task, train.split, rest, train.status, train.source, train.revision)
    else:
        own = [split for split in (task.dev_split, task.eval_split) if split is not None]
        evals = [read(task, split) for split in own]
        evals += [read(spec, spec.eval_split) for spec in task.foreign.values()]
    rows = subset(train.rows, protocol.train_examples, CUT_SEED)
    return [
        _replaced(train, with_other_texts(rows) if task.control == "other" else rows),
        *(_replaced(part, _evaluated(part, run)) for part in evals),
    ]


def _evaluated(part: _Part, run: RunConfig) -> Rows:
    """Return the rows of an evaluation split that the protocol scores."""
    protocol = run.protocol
    if part.spec.kind != "generation":
        return subset(part.rows, protocol.eval_examples, CUT_SEED)
    every_epoch = part.split in (part.spec.dev_split, HOLDOUT)
    return first_meanings(part.rows, protocol.dev_meanings if every_epoch else protocol.eval_meanings)


def _replaced(part: _Part, rows: Rows) -> _Part:
    if rows is part.rows:
        return part
    status = "subset" if part.status in (OFFICIAL, "subset") else f"{part.status} + subset"
    return _Part(part.spec, part.split, rows, status, part.source, part.revision)


def _reader(run: RunConfig) -> Callable[[TaskSpec, str], _Part]:
    """Return what reads a split; one's own files are read once, for the labels of both splits."""
    if run.task.source != "own":
        return partial(_read, run)
    found = _own_rows(run)
    task = replace(run.task, labels=found.labels)
    return lambda _, split: _Part(task, split, found.rows[split], found.status, found.source, found.revision)


_own_read: dict[str, OwnRows] = {}


def _own_rows(run: RunConfig) -> OwnRows:
    """Return the rows of `own.*`; what was read last is kept, as one command may make many runs of it."""
    key = data_key(run)
    if key not in _own_read:
        found = read_own(run.own, run.task)
        _own_read.clear()
        _own_read[key] = found
    return _own_read[key]


def _read(run: RunConfig, spec: TaskSpec, split: str) -> _Part:
    if spec.source == "synthetic":
        return _Part(spec, split, read_synthetic(split), "synthetic", "synthetic")
    folder = resolved_data_dir(run.data_dir)
    if folder is not None:
        rows, status = read_local(folder, spec, split)
        return _Part(spec, split, rows, status, "local")
    rows, status, revision = read_hub(spec, split)
    assert spec.hub is not None
    return _Part(spec, split, rows, status, f"hub:{spec.hub.id}", revision)


def _joined(values: Iterable[str]) -> str:
    return " + ".join(dict.fromkeys(values))
