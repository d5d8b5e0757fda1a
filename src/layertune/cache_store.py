"""A folder of large tensors that runs share: encoded splits, layer scores, the states of frozen layers.

An entry is a folder of raw files and `facts.json` (its key in full, shapes, checksums, cost). It appears
complete or not at all, and its checksums are tested before use. Where the folder has a largest size, the
entry that was unused for longest is removed first.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layertune.config.files import WRITING, lock_of, locked, remove_abandoned, write_atomic
from layertune.config.identity import sha256_of

log = logging.getLogger(__name__)

_FACTS, _USED, _PLACE = "facts.json", "used", "place"
_CHUNK = 1 << 24  # bytes read at a time for a checksum


@dataclass(frozen=True)
class Entry:
    """An entry whose checksums fit, mapped from disk or held in memory.

    On disk it may be evicted at any time; what is mapped stays readable.

    Attributes:
        facts: of `writing`: `cost` holds the seconds and CPU seconds of its making, its checksums included.
        tensors: by name; memory-mapped where they lie on disk.
    """

    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


class CacheStore:
    """A folder of entries, together at most `max_bytes` where room is made for each; None = any size."""

    def __init__(self, folder: Path, max_bytes: int | None = None) -> None:
        self.folder, self.max_bytes = folder, max_bytes

    def path(self, key: Mapping[str, Any]) -> Path:
        """Return the folder of an entry: the hash of its key."""
        return self.folder / sha256_of(key)[:32]

    def find(self, key: Mapping[str, Any]) -> Entry | None:
        """Return the entry of a key and mark it as used; None if there is none or it cannot be trusted.

        An entry whose key differs in anything, or whose checksums do not fit, is removed and said so.
        """
        path = self.path(key)
        if not path.is_dir():
            return None
        written = _written(path)
        try:
            entry = _read(path, key)
        except FileNotFoundError:
            if not path.is_dir():
                return None  # evicted while it was read
            entry, reason = None, "a file is missing"
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            entry, reason = None, str(error)
        if entry is None:
            log.warning("cache entry %s is refused (%s): it is computed anew", path.name, reason)
            if _written(path) == written:  # no other process has put a new one there meanwhile
                shutil.rmtree(path, ignore_errors=True)
            return None
        with suppress(OSError):
            (path / _USED).touch()
        return entry

    @contextmanager
    def building(self, key: Mapping[str, Any]) -> Iterator[None]:
        """Let one process at a time compute an entry; others wait here, and then find it."""
        with locked(lock_of(self.path(key))):
            remove_abandoned(self.folder)
            shutil.rmtree(self._temporary(key), ignore_errors=True)
            try:
                yield
            finally:
                shutil.rmtree(self._temporary(key), ignore_errors=True)

    def make_room(self, key: Mapping[str, Any], needed: int) -> str | None:
        """Remove what was unused for longest until `needed` bytes fit, and keep the place for an entry.

        To be called inside `building`; the place is free again when that ends without an entry.

        Returns:
            Why the bytes cannot fit; None where there is room.
        """
        if self.max_bytes is None:
            return None
        if needed > self.max_bytes:
            return f"it needs {needed / 1e9:.2f} GB and cache.max_gb is {self.max_bytes / 1e9:g}"
        with locked(self.folder / ".lock"):
            entries = sorted(self._entries(), key=lambda item: item[0])
            total = sum(size for _, size, _ in entries) + self._in_progress()
            for _, size, path in entries:
                if total + needed <= self.max_bytes:
                    break
                log.info("cache: %s goes, %.2f GB unused for longest", path.name, size / 1e9)
                shutil.rmtree(path, ignore_errors=True)
                total -= size
            if total + needed > self.max_bytes:
                return f"it needs {needed / 1e9:.2f} GB and other runs are writing {total / 1e9:.2f} GB now"
            free = shutil.disk_usage(self.folder).free
            if needed > 0.95 * free:
                return f"it needs {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB left"
            place = self._temporary(key)
            place.mkdir(exist_ok=True)
            with (place / _PLACE).open("wb") as stream:
                stream.truncate(needed)  # its size counts; it takes no room on the disk
        return None

    def _temporary(self, key: Mapping[str, Any]) -> Path:
        return self.folder / f"{WRITING}{self.path(key).name}"

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield when each entry was last used, its bytes and its folder."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.name.startswith("."):
                with suppress(OSError):  # removed meanwhile
                    mark = path / _USED
                    yield (mark if mark.exists() else path).stat().st_mtime, _size(path), path

    def _in_progress(self) -> int:
        """Return the bytes that other processes are writing."""
        remove_abandoned(self.folder)
        total = 0
        for path in self.folder.glob(f"{WRITING}*"):
            with suppress(OSError):  # finished meanwhile
                total += _size(path)
        return total

    @contextmanager
    def writing(
        self, key: Mapping[str, Any], shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
        """Give memory-mapped tensors to fill and a dictionary for more facts; the entry appears at the end.

        To be called inside `building`. After an exception nothing is left. A `cost` among the facts is what
        it took before; what passes here, checksums included, is added.

        Raises:
            OSError: the disk is full.
        """
        start = _now()
        path, temporary = self.path(key), self._temporary(key)
        temporary.mkdir(parents=True, exist_ok=True)
        try:
            tensors = {
                name: _mapped(temporary / name, shape, dtype, writable=True)
                for name, (shape, dtype) in shapes.items()
            }
            (temporary / _PLACE).unlink(missing_ok=True)
            facts: dict[str, Any] = {}
            yield tensors, facts
            del tensors
            kinds = {name: [list(shape), str(dtype)] for name, (shape, dtype) in shapes.items()}
            sums = {name: _checksum(temporary / name) for name in shapes}
            facts["cost"] = _cost(start, facts.get("cost"))
            content = {"key": dict(key), "tensors": kinds, "checksums": sums, **facts}
            content["sha256"] = sha256_of(content)
            write_atomic(temporary / _FACTS, json.dumps(content, indent=1).encode())
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class MemoryStore:
    """Stands where a `CacheStore` cannot keep an entry: the same entry, which goes with the run."""

    entry: Entry | None = None

    @contextmanager
    def writing(
        self, key: Mapping[str, Any], shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]]
    ) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
        """Give tensors to fill and a dictionary for more facts, as `CacheStore.writing` does."""
        start = _now()
        tensors = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
        facts: dict[str, Any] = {}
        yield tensors, facts
        self.entry = Entry({**facts, "key": dict(key), "cost": _cost(start, facts.get("cost"))}, tensors)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _cost(start: tuple[float, float], before: Mapping[str, float] | None) -> dict[str, float]:
    """Return the seconds and CPU seconds since `start`, and those before it."""
    passed = zip(("seconds", "cpu_seconds"), _now(), start, strict=True)
    return {name: now - then + (before or {}).get(name, 0.0) for name, now, then in passed}


def _written(folder: Path) -> tuple[int, int] | None:
    """Return what tells an entry from a later one in its place; None without facts."""
    try:
        facts = (folder / _FACTS).stat()
    except FileNotFoundError:
        return None
    return facts.st_ino, facts.st_mtime_ns


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _read(path: Path, key: Mapping[str, Any]) -> Entry:
    facts = json.loads((path / _FACTS).read_text())
    if facts.pop("sha256", None) != sha256_of(facts):  # none: of an earlier version
        raise ValueError(f"{_FACTS} is not as it was written")
    if facts["key"] != json.loads(json.dumps(dict(key))):
        raise ValueError("it was made for another key")
    tensors = {}
    for name, (shape, dtype) in facts["tensors"].items():
        if _checksum(path / name) != facts["checksums"][name]:
            raise ValueError(f"the checksum of {name} does not fit its content")
        tensors[name] = _mapped(path / name, tuple(shape), _dtype(dtype), writable=False)
    return Entry(facts, tensors)


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name.removeprefix("torch."))
    assert isinstance(dtype, torch.dtype)
    return dtype


def _mapped(path: Path, shape: tuple[int, ...], dtype: torch.dtype, writable: bool) -> Tensor:
    """Map a file as a tensor; a writable one is made with the size it needs.

    Raises:
        ValueError: an existing file has another size.
    """
    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        path.touch()
        return torch.empty(shape, dtype=dtype)
    if writable:
        with path.open("wb") as stream:
            _reserve(stream.fileno(), size)
    elif path.stat().st_size != size:
        raise ValueError(f"{path.name} holds {path.stat().st_size} bytes instead of {size}")
    raw = torch.from_file(str(path), shared=writable, size=size, dtype=torch.uint8)
    return raw.view(dtype).view(shape)


def _reserve(file: int, size: int) -> None:
    """Give a file its size. A full disk is an error here, not a crash later; macOS cannot tell."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as stream:
        with suppress(AttributeError, OSError):
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while chunk := stream.read(_CHUNK):
            total = zlib.crc32(chunk, total)
    return total
