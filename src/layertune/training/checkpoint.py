"""Checkpoints, from which a run goes on exactly where it stopped: weights, optimiser, schedule, random state.

A checkpoint lies in `<outputs_dir>/checkpoints/<run_id>` until the record of the run is on disk, and also the
model where the run saves one (`save=`). On SIGTERM or Ctrl-C a run with `checkpoint.every_steps` finishes its
step, writes a checkpoint and stops; a run without it stops at once.

The state of a run lies in a folder: its tensors as safetensors, all else as JSON, both with their sha256.
`state.json` names the file of the tensors that belong to it, and is replaced after that file is written. So a
folder always holds one whole state, whenever the process that writes it is killed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from layertune.config import RunConfig
from layertune.config.files import write_atomic
from layertune.config.identity import sha256_of
from layertune.errors import CheckpointError, Interruption, message_of
from layertune.records.store import versions_of
from layertune.stopping import on_stop_signals, stopping_at_once
from layertune.tasks import TaskData

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


log = logging.getLogger(__name__)


def checkpoint_folder(run: RunConfig) -> Path:
    """Return where the checkpoint of a run lies."""
    return run.cache_dir.parent / "checkpoints" / run.run_id


def remove_checkpoint(run: RunConfig, done: bool = True) -> None:
    """Delete the checkpoint of a run that has nothing left to write.

    It stays where an interrupted command wrote it that was to save the model (`save=`), and this one has
    finished the run without saving any: when the first command is given again, it goes on from there.
    """
    if done and run.save is None and facts_of(checkpoint_folder(run)).get("keeps_model"):
        return
    shutil.rmtree(checkpoint_folder(run), ignore_errors=True)


class Checkpoint:
    """The checkpoint of one run.

    With `force=true` a run starts over, unless the checkpoint was itself written under `force=true`: then
    this is the same command given again, and it goes on.

    Args:
        run: says how often a checkpoint is written, and where.
        data: the rows; a checkpoint of other rows is refused.
        device: where the run computes; the state of its random generator is saved too.
    """

    def __init__(self, run: RunConfig, data: TaskData, device: torch.device) -> None:
        self.run, self.data, self.device = run, data, device
        self.every = run.checkpoint.every_steps
        self.folder = checkpoint_folder(run)
        self._keeps_model = run.save is not None
        self._stop_asked = False

    def due(self, step: int) -> bool:
        """Whether the state is saved after this step."""
        return self.every is not None and (self._stop_asked or step % self.every == 0)

    def save(self, progress: dict[str, Any]) -> None:
        """Write the state of the run and of all random generators it draws from.

        A checkpoint that cannot be written (a full disk) does not stop the run; a warning says so.

        Raises:
            Interruption: the run was asked to stop; the state is on disk.
            KeyboardInterrupt: the run was asked to stop, and the state could not be written.
        """
        facts = {"of": self._of, "versions": self._versions, "forced": self.run.force}
        facts["keeps_model"] = self._keeps_model
        try:
            write_state(self.folder, facts, {"progress": progress, "random": _random_state(self.device)})
        except OSError as error:
            log.warning("the checkpoint %s could not be written (%s)", self.folder, error.strerror)
            if self._stop_asked:
                raise KeyboardInterrupt("asked to stop") from error
            return
        if self._stop_asked:
            raise Interruption(f"stopped after a step; the same command goes on from {self.folder}")

    def resume(self, take_up: Callable[[dict[str, Any]], None]) -> None:
        """Let the run go on from its checkpoint, if it has one of the versions in force.

        Args:
            take_up: is given the progress that `save` was given.

        Raises:
            CheckpointError: the checkpoint is damaged, or is that of another run.
        """
        if self.every is None or not has_state(self.folder):
            return
        try:
            facts, state = read_state(self.folder)
            if others := [name for name, value in self._of.items() if facts["of"][name] != value]:
                raise ValueError(f"it is not of this {' and '.join(others)}")
            current, forced = facts["versions"] == self._versions, facts["forced"]
        except Exception as error:  # the files may hold anything
            if not self.run.force:
                raise self._unusable(error) from error
            log.warning("force=true: the run starts anew; %s cannot be used (%s)", self.folder, error)
            return
        if not current:
            log.warning("%s is of older versions: the run starts anew", self.folder)
        elif self.run.force and not forced:
            log.info("force=true: the run starts anew; %s was not forced", self.folder)
        else:
            try:
                take_up(state["progress"])
                _restore_random(state["random"], self.device)
            except (MemoryError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # a method may fail in any way on a state that it did not write
                raise self._unusable(error) from error
            self._keeps_model |= bool(facts.get("keeps_model"))
            log.info("resuming from %s", self.folder)

    @cached_property
    def _of(self) -> dict[str, Any]:
        """What a checkpoint must agree with for this run to go on from it."""
        return {
            "run": self.run.run_id,
            "configuration": self.run.config_sha256,
            "data": [self.data.provenance.fingerprint_sha256, self.data.train.store.content_sha256()],
            "device": self.device.type,
        }

    @property
    def _versions(self) -> dict[str, Any]:
        return dataclasses.asdict(versions_of(self.run))

    def _unusable(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"the checkpoint {self.folder} cannot be used ({message_of(error)}): "
            "delete it or say force=true, and the run starts anew."
        )

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let SIGTERM and Ctrl-C stop the run at the end of a step; at once if it writes no checkpoints."""
        if self.every is None:
            with stopping_at_once(resumable=False):
                yield
            return
        with on_stop_signals(self._ask_to_stop) as listening:
            if not listening:
                log.warning("not in the main thread: this run cannot stop cleanly on a signal")
            yield

    def _ask_to_stop(self, *_: object) -> None:
        self._stop_asked = True


def _random_state(device: torch.device) -> dict[str, Any]:
    kind, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
        "device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _restore_random(kept: dict[str, Any], device: torch.device) -> None:
    random.setstate(kept["python"])
    kind, keys, *rest = kept["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(kept["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(kept["device"], device)
