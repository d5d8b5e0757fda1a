"""Encoded splits on disk, named by their content: rows, tokenizer, length, segments, encoder version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from layertune.cache_store import CacheStore
from layertune.config import TaskSpec
from layertune.tasks.encode import ENCODER_VERSION, TokenStore, encode, padding_id
from layertune.tasks.prompts import encode_generation
from layertune.tasks.rows import Rows

_ARRAYS = ("ids", "offsets", "segments", "prompts")


def token_key(fingerprint: str, tokenizer_key: str, spec: TaskSpec) -> dict[str, Any]:
    """Return everything that decides the token ids: the key of a cache entry."""
    parts = {
        "rows": fingerprint,
        "tokenizer": tokenizer_key,
        "max_length": spec.max_length,
        "segment_ids": spec.segment_ids,
        "is_pair": spec.is_pair,
        "encoder": ENCODER_VERSION,
    }
    return parts | ({"format": spec.format} if spec.kind == "generation" else {})


def encode_cached(
    rows: Rows, fingerprint: str, tokenizer: Any, tokenizer_key: str, spec: TaskSpec, folder: Path
) -> TokenStore:
    """Return the encoded rows from `folder`, or encode them and leave them there; memory-mapped either way.

    Args:
        rows: what to encode; its labels are used as they are.
        fingerprint: `rows.fingerprint()`.
        tokenizer: as returned by `load_tokenizer`.
        tokenizer_key: sha256 of the tokenizer's content.
        spec: says max_length and segment_ids.
        folder: the cache; made if missing.
    """
    cache, key = CacheStore(folder), token_key(fingerprint, tokenizer_key, spec)
    with cache.building(key):  # one process encodes; others wait here, and then find it
        entry = cache.find(key)
        if entry is None:
            store = (encode_generation if spec.kind == "generation" else encode)(rows, tokenizer, spec)
            arrays = {name: array for name in _ARRAYS if (array := getattr(store, name)) is not None}
            shapes = {name: (array.shape, torch.from_numpy(array).dtype) for name, array in arrays.items()}
            with cache.writing(key, shapes) as (tensors, facts):
                facts["truncated"] = store.truncated
                for name, array in arrays.items():
                    tensors[name].copy_(torch.from_numpy(array))
            del tensors
            entry = cache.find(key)
            assert entry is not None, "it has just been written"
    kept: dict[str, Any] = {name: tensor.numpy() for name, tensor in entry.tensors.items()}
    return TokenStore(
        ids=kept["ids"],
        offsets=kept["offsets"],
        segments=kept.get("segments"),
        prompts=kept.get("prompts"),
        labels=rows.labels,
        truncated=entry.facts["truncated"],
        pad_id=padding_id(tokenizer),
        max_length=spec.max_length,
    )
