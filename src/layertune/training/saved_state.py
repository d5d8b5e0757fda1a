"""The state of a run in a folder: its tensors as safetensors, all else as JSON, both with their sha256.

`state.json` names the file of the tensors that belong to it, and is replaced after that file is written. So a
folder always holds one whole state, whenever the process that writes it is killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from layertune.config.files import write_atomic
from layertune.config.identity import sha256_of

_COLLECTIONS: dict[str, type] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def has_state(folder: Path) -> bool:
    """Whether a state was written to a folder."""
    return _main_file(folder).is_file()


def write_state(folder: Path, facts: Mapping[str, Any], state: Any) -> None:
    """Write a state; it takes the place of the one that the folder held.

    Args:
        folder: holds this state alone: all other files in it are removed.
        facts: what the state is of, in JSON's own types.
        state: tensors, numbers, text, None, and dictionaries, lists, tuples and sets of them.

    Raises:
        TypeError: something else is in the state.
        OSError: it cannot be written; the state before stays.
    """
    tensors: list[Tensor] = []
    plain = _plain(state, tensors)
    content = safetensors.torch.save(_apart(tensors))
    digest = hashlib.sha256(content).hexdigest()
    file = write_atomic(folder / f"{digest[:16]}.safetensors", content)
    sealed = _sealed({"facts": dict(facts), "tensors": [file.name, digest], "state": plain})
    main = write_atomic(_main_file(folder), sealed)
    for other in set(folder.iterdir()) - {file, main}:
        other.unlink(missing_ok=True)


def read_state(folder: Path) -> tuple[dict[str, Any], Any]:
    """Return the facts and the state of a folder, tensors on the CPU, exactly as they were written.

    Raises:
        ValueError: anything in it, down to a single bit, is not as it was written.
        OSError: a file is missing or cannot be read.
    """
    found = _main_file(folder).read_bytes()
    try:
        content = json.loads(found)["content"]
        intact = found == _sealed(content)
    except (ValueError, KeyError, TypeError, RecursionError):  # not even the JSON of a state
        intact = False
    if not intact:
        raise ValueError(f"{_main_file(folder).name} is not as it was written")
    name, digest = content["tensors"]
    tensors = (folder / name).read_bytes()
    if hashlib.sha256(tensors).hexdigest() != digest:
        raise ValueError(f"{name} is not as it was written")
    return content["facts"], _restored(content["state"], safetensors.torch.load(tensors))


def facts_of(folder: Path) -> dict[str, Any]:
    """Return the facts of a folder's state without reading a tensor; none, where it holds no whole state."""
    try:
        return dict(json.loads(_main_file(folder).read_bytes())["content"]["facts"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _main_file(folder: Path) -> Path:
    return folder / "state.json"


def _sealed(content: Any) -> bytes:
    """Return the file that holds a content: its one spelling, with its sha256 in front.

    A file in which any bit is changed is not what this function makes of its content.
    """
    return json.dumps({"sha256": sha256_of(content), "content": content}, separators=(",", ":")).encode()


def _plain(value: Any, tensors: list[Tensor]) -> Any:
    """Return a value as JSON holds it, its tensors moved to `tensors`; every JSON object names its kind."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if isinstance(value, Mapping):
        return {"dict": [[_plain(key, tensors), _plain(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list):
        return [_plain(item, tensors) for item in value]
    for name, kind in _COLLECTIONS.items():
        if isinstance(value, kind):
            return {name: [_plain(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state holds tensors, numbers, text and collections of them, no {type(value)}")


def _apart(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return tensors by number, on the CPU; one that shares memory with another is copied for the file."""
    apart: dict[str, Tensor] = {}
    memory = set()
    for number, tensor in enumerate(tensors):
        tensor = tensor.detach().cpu().contiguous()
        where = tensor.untyped_storage().data_ptr()
        apart[str(number)] = tensor.clone() if where in memory else tensor
        memory.add(where)
    return apart


def _restored(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `_plain`."""
    if isinstance(plain, list):
        return [_restored(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    if kind == "tensor":
        return tensors[str(content)]
    if kind == "dict":
        return {_restored(key, tensors): _restored(item, tensors) for key, item in content}
    return _COLLECTIONS[kind](_restored(item, tensors) for item in content)
