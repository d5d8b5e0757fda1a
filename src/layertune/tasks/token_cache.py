"""Encoded splits on disk, named by their content: rows, tokenizer, length, segments, encoder version.

An entry is a folder of .npy files that are memory-mapped; it appears whole (written beside, then renamed) and
is checked before use. An entry that is damaged, or another's, is encoded anew, and the log says so.
"""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from layertune.config import TaskSpec
from layertune.config.files import WRITING, lock_of, remove_abandoned
from layertune.config.identity import sha256_of
from layertune.config.locks import locked
from layertune.tasks.encode import ENCODER_VERSION, TokenStore, encode, padding_id
from layertune.tasks.prompts import encode_generation
from layertune.tasks.rows import Rows

log = logging.getLogger(__name__)

_ARRAYS = {"ids": np.int32, "offsets": np.int64, "segments": np.uint8, "prompts": np.int32}


def token_key(fingerprint: str, tokenizer_key: str, spec: TaskSpec) -> str:
    """Return the name of a cache entry: the sha256 of everything that decides the token ids."""
    parts = {
        "rows": fingerprint,
        "tokenizer": tokenizer_key,
        "max_length": spec.max_length,
        "segment_ids": spec.segment_ids,
        "is_pair": spec.is_pair,
        "encoder": ENCODER_VERSION,
    }
    if spec.kind == "generation":
        parts["format"] = spec.format
    return sha256_of(parts)


def encode_cached(
    rows: Rows, fingerprint: str, tokenizer: Any, tokenizer_key: str, spec: TaskSpec, folder: Path
) -> TokenStore:
    """Return the encoded rows from `folder`, or encode them and leave them there.

    Args:
        rows: what to encode; its labels are used as they are.
        fingerprint: `rows.fingerprint()`.
        tokenizer: as returned by `load_tokenizer`.
        tokenizer_key: sha256 of the tokenizer's content.
        spec: says max_length and segment_ids.
        folder: the cache; made if missing.
    """
    entry = folder / token_key(fingerprint, tokenizer_key, spec)
    with locked(lock_of(entry)):  # one process encodes; others wait here, and then find it
        if entry.is_dir():
            store = _load(entry, rows, tokenizer, spec)
            if store is not None:
                return store
            log.warning("token cache entry %s is not as it was written: encoding again", entry)
            shutil.rmtree(entry)
        store = (encode_generation if spec.kind == "generation" else encode)(rows, tokenizer, spec)
        _save(entry, store)
    return replace(store, **_arrays(entry))


def _arrays(entry: Path) -> dict[str, np.ndarray | None]:
    """Memory-map the arrays of an entry; plain views, because indexing `np.memmap` objects is slow."""
    found = {name: entry / f"{name}.npy" for name in _ARRAYS}
    return {
        name: np.load(path, mmap_mode="r").view(np.ndarray) if path.is_file() else None
        for name, path in found.items()
    }


def _checksum(array: np.ndarray | None) -> int | None:
    return None if array is None else zlib.crc32(np.ascontiguousarray(array))


def _save(entry: Path, store: TokenStore) -> None:
    remove_abandoned(entry.parent)
    temporary = entry.with_name(f"{WRITING}{entry.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that is gone: the lock is ours
    temporary.mkdir()
    try:
        for name in _ARRAYS:
            array = getattr(store, name)
            if array is not None:
                np.save(temporary / f"{name}.npy", array)
        facts = {
            "key": entry.name,
            "truncated": store.truncated,
            "checksums": {name: _checksum(getattr(store, name)) for name in _ARRAYS},
        }
        (temporary / "facts.json").write_text(json.dumps({"sha256": sha256_of(facts), "facts": facts}))
        temporary.rename(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _load(entry: Path, rows: Rows, tokenizer: Any, spec: TaskSpec) -> TokenStore | None:
    """Return the entry, or None if anything about it is not as it was written."""
    try:
        kept = json.loads((entry / "facts.json").read_text())
        facts = kept["facts"]
        arrays = _arrays(entry)
        intact = (facts["key"], sha256_of(facts)) == (entry.name, kept["sha256"]) and all(
            _checksum(arrays[name]) == facts["checksums"].get(name)
            and (arrays[name] is None or arrays[name].dtype == dtype)
            for name, dtype in _ARRAYS.items()
        )
        if not intact or len(arrays["offsets"]) != len(rows) + 1:
            return None
        truncated = int(facts["truncated"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("token cache entry %s cannot be read: %s", entry, error)
        return None
    return TokenStore(
        **arrays,
        labels=rows.labels,
        truncated=truncated,
        pad_id=padding_id(tokenizer),
        max_length=spec.max_length,
    )
