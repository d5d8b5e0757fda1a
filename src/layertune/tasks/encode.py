"""Rows become token ids, once: a flat array per split that batches are gathered from.

Second room of the flow (config -> tasks). `token_cache` keeps the result on disk, so that the runs of a table
tokenise each split once.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from layertune.config import TaskSpec
from layertune.errors import DataError
from layertune.tasks.meanings import Meanings
from layertune.tasks.rows import Rows

log = logging.getLogger(__name__)

ENCODER_VERSION = 2  # raised when the same rows would give other token ids
IGNORED_LABEL = -100  # of tokens that are not learnt
_CHUNK = 2000  # rows per call of the tokenizer


def sent(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device; what a CUDA device fetches is pinned first, so that the host goes on."""
    fetched = torch.device(device).type == "cuda" and not tensor.is_cuda
    return (tensor.pin_memory() if fetched else tensor).to(device, non_blocking=True)


@dataclass(frozen=True)
class LowerLayers:
    """What the layers below `layer` made of a batch: the forward pass starts there.

    Attributes:
        layer: the first layer that is left to run, 2 to L + 1.
        states: [B, T, H] entering it; None for L + 1, where nothing is left.
        representatives: [B, layer - 1, H], the representative tokens of the layers below; None where no head
            reads them.
    """

    layer: int
    states: Tensor | None
    representatives: Tensor | None


@dataclass(frozen=True)
class Batch:
    """Right-padded tensors of one batch.

    Attributes:
        input_ids: [B, T] int64.
        attention_mask: [B, T] int64, 1 on real tokens.
        labels: [B] int64 (classification) or [B] float32 (regression); generation: [B, T] int64, the token
            itself where it is learnt, else -100.
        segment_ids: [B, T] int64; None stands for zeros.
        indices: [B] row numbers within the split.
        targets: [N] int64, generation: where the learnt tokens are in `labels.flatten()`, known before the
            batch reaches a device. None = look for them.
        lower: what the lowest layers make of the batch, where it is known; None = all layers run.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    segment_ids: Tensor | None
    indices: np.ndarray
    targets: Tensor | None = None
    lower: LowerLayers | None = None

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        return self._each(lambda tensor: sent(tensor, device))

    def pinned(self) -> Batch:
        """Return the batch where a CUDA device can fetch it while the host goes on."""
        return self._each(lambda tensor: tensor if tensor.is_cuda else tensor.pin_memory())

    def copied(self, device: torch.device | str) -> Batch:
        """Return the batch in tensors of its own, on a device."""
        return self._each(lambda tensor: tensor.to(device, copy=True))

    def tensors(self) -> list[Tensor]:
        """Return all tensors that are there, in a fixed order."""
        found = [self.input_ids, self.attention_mask, self.labels, self.segment_ids, self.targets]
        if self.lower is not None:
            found += [self.lower.states, self.lower.representatives]
        return [tensor for tensor in found if tensor is not None]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        def changed(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        tensors = ("input_ids", "attention_mask", "labels", "segment_ids", "targets")
        lower = self.lower
        if lower is not None:
            states, representatives = changed(lower.states), changed(lower.representatives)
            lower = replace(lower, states=states, representatives=representatives)
        return replace(self, **{name: changed(getattr(self, name)) for name in tensors}, lower=lower)

    def row(self, index: int) -> Batch:
        """Return one example as a batch of its own, without what is known of its layers or its targets."""
        part = slice(index, index + 1)
        segments = None if self.segment_ids is None else self.segment_ids[part]
        tokens, mask, labels = self.input_ids[part], self.attention_mask[part], self.labels[part]
        return Batch(tokens, mask, labels, segments, self.indices[part])

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class TokenStore:
    """All examples of a split as one flat array of tokens.

    Attributes:
        ids: int32 [total tokens].
        offsets: int64 [n + 1]; example i is `ids[offsets[i]:offsets[i + 1]]`.
        segments: uint8 [total tokens], or None for zeros.
        labels: [n] int64 or float32.
        truncated: rows that were cut to max_length.
        pad_id: token that fills up a batch.
        max_length: no batch is padded beyond it; None = no limit.
        prompts: int32 [n], generation: how many tokens each example begins with that are not learnt.
    """

    ids: np.ndarray
    offsets: np.ndarray
    segments: np.ndarray | None
    labels: np.ndarray
    truncated: int
    pad_id: int
    max_length: int | None = None
    prompts: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, special tokens included: [n] int64."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def content_sha256(self) -> str:
        """Return the hash of all that a model is shown of the examples; labels, which it is not, aside."""
        content = hashlib.sha256()
        for array in (self.ids, self.offsets, self.segments, self.prompts):
            content.update(b"none" if array is None else np.ascontiguousarray(array))
        return content.hexdigest()

    def batch(self, indices: np.ndarray, multiple: int = 1) -> Batch:
        """Gather the examples at these row numbers, padded to the longest, rounded up to a multiple."""
        indices = np.asarray(indices, dtype=np.int64)
        starts = self.offsets[indices]
        lengths = self.offsets[indices + 1] - starts
        width = -(-int(lengths.max()) // multiple) * multiple
        if self.max_length is not None:
            width = min(width, self.max_length)
        columns = np.arange(width)
        mask = columns < lengths[:, None]  # [B, T]
        positions = np.where(mask, starts[:, None] + columns, 0)
        ids = np.where(mask, self.ids[positions], self.pad_id).astype(np.int64)
        segments = targets = None
        if self.segments is not None:
            segments = torch.from_numpy(np.where(mask, self.segments[positions], 0).astype(np.int64))
        labels = np.asarray(self.labels)[indices]
        if self.prompts is not None:  # by position, not by id: padding and the end may share one
            learnt = mask & (columns >= self.prompts[indices][:, None])
            labels = np.where(learnt, ids, IGNORED_LABEL)
            targets = torch.from_numpy(np.flatnonzero(learnt))
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(mask.astype(np.int64)),
            torch.from_numpy(labels),
            segments,
            indices,
            targets,
        )

    def without_references(self) -> TokenStore:
        """Return the examples of a generation split cut after their prompts: nothing is left to learn."""
        assert self.prompts is not None, "only a generation split has prompts"
        keep = np.arange(len(self.ids)) - np.repeat(self.offsets[:-1], self.lengths) < np.repeat(
            self.prompts, self.lengths
        )
        offsets = np.concatenate([[0], np.cumsum(self.prompts, dtype=np.int64)])
        return replace(self, ids=self.ids[keep], offsets=offsets)


@dataclass(frozen=True)
class Split:
    """One encoded split: the name its scores go by, which it is, its tokens; generation: its meanings."""

    name: str
    split: str
    store: TokenStore
    meanings: Meanings | None = None

    def __len__(self) -> int:
        return len(self.store)


def is_decoder(tokenizer: Any) -> bool:
    """Whether a tokenizer has no separator and no classification token, as those of decoders."""
    return tokenizer.sep_token_id is None and tokenizer.cls_token_id is None


def padding_id(tokenizer: Any) -> int:
    """Return the id that fills up batches: the pad token, else the end-of-sequence token.

    Raises:
        DataError: the tokenizer has neither.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    raise DataError(
        f"The tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has neither a pad token nor an "
        "eos token, so batches cannot be padded: set pad_token in its tokenizer_config.json."
    )


def encode(rows: Rows, tokenizer: Any, spec: TaskSpec) -> TokenStore:
    """Tokenise rows as the task says; longer ones are cut to `max_length` and counted.

    Encoders see a pair as `[CLS] a [SEP] b [SEP]`, decoders as "a<newline>b".
    """
    special = tokenizer.num_special_tokens_to_add(pair=len(rows.texts) == 2 and not is_decoder(tokenizer))
    if spec.max_length <= special:
        raise DataError(
            f"max_length={spec.max_length} leaves no room for a word: the tokenizer adds {special} tokens."
        )
    ids: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    segments: list[np.ndarray] = []
    truncated = 0
    for encodings in _tokenised(rows, tokenizer, spec.max_length):
        tokens = [encoding.ids or [_stand_in(tokenizer)] for encoding in encodings]
        lengths.append(np.fromiter(map(len, tokens), np.int64, len(tokens)))
        total = int(lengths[-1].sum())
        ids.append(np.fromiter(chain.from_iterable(tokens), np.int32, total))
        truncated += sum(bool(encoding.overflowing) for encoding in encodings)
        if _keeps_segments(tokenizer, spec):
            kinds = chain.from_iterable(encoding.type_ids or [0] for encoding in encodings)
            segments.append(np.fromiter(kinds, np.uint8, total))
    return TokenStore(
        ids=np.concatenate(ids),
        offsets=np.concatenate([[0], np.cumsum(np.concatenate(lengths))]),
        segments=np.concatenate(segments) if segments else None,
        labels=rows.labels,
        truncated=truncated,
        pad_id=padding_id(tokenizer),
        max_length=spec.max_length,
    )


def _keeps_segments(tokenizer: Any, spec: TaskSpec) -> bool:
    return spec.segment_ids == "standard" and "token_type_ids" in tokenizer.model_input_names


def _tokenised(rows: Rows, tokenizer: Any, max_length: int) -> Iterator[list[Any]]:
    columns: list[Any] = list(rows.texts)
    if len(columns) == 2 and is_decoder(tokenizer):
        columns = [[f"{first}\n{second}" for first, second in zip(*columns, strict=True)]]
    for start in range(0, len(rows), _CHUNK):
        chunk = [list(column[start : start + _CHUNK]) for column in columns]
        if not tokenizer.is_fast:
            yield _in_python(chunk, tokenizer, max_length)
            continue
        with _pretraining_layout(tokenizer):
            encoded = tokenizer(
                *chunk,
                truncation=True,
                max_length=max_length,
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
        yield encoded.encodings


class _Encoding(NamedTuple):
    """One row of a tokenizer in Python, with the names that those in Rust give to its parts."""

    ids: list[int]
    type_ids: list[int]
    overflowing: bool


def _in_python(chunk: list[Any], tokenizer: Any, max_length: int) -> list[_Encoding]:
    whole = tokenizer(*chunk, truncation=False, padding=False, verbose=False)["input_ids"]
    cut = tokenizer(*chunk, truncation=True, max_length=max_length, padding=False, return_token_type_ids=True)
    segments = cut.get("token_type_ids") or [[0] * len(row) for row in cut["input_ids"]]
    return [
        _Encoding(row, kinds, len(row) < len(all_of_it))
        for row, kinds, all_of_it in zip(cut["input_ids"], segments, whole, strict=True)
    ]


@contextmanager
def _pretraining_layout(tokenizer: Any) -> Iterator[None]:
    """Lay out the pairs of DeBERTa (v1) as in its pretraining: `[CLS] a [SEP] b [SEP]`, segments 0 and 1.

    It has no tokenizer.json, and the class of transformers 5 writes RoBERTa's two separators in between; the
    library's own converter of the checkpoint (`DebertaConverter`) writes one.
    """
    if type(tokenizer).__name__ not in ("DebertaTokenizer", "DebertaTokenizerFast"):
        yield
        return
    from tokenizers.processors import TemplateProcessing

    backend = tokenizer.backend_tokenizer
    first, separator = tokenizer.cls_token, tokenizer.sep_token
    given = backend.post_processor
    backend.post_processor = TemplateProcessing(
        single=f"{first} $A {separator}",
        pair=f"{first} $A {separator} $B:1 {separator}:1",
        special_tokens=[(first, tokenizer.cls_token_id), (separator, tokenizer.sep_token_id)],
    )
    try:
        yield
    finally:
        backend.post_processor = given


def _stand_in(tokenizer: Any) -> int:
    """Return the one token of an empty sentence where a tokenizer adds none: a last real token must exist."""
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return padding_id(tokenizer)
