"""Write a run's model into the folder that the run names: whole, or not at all.

The files are written beside their place and put there at the end; `layertune.json`, which says whose model it
is, comes last. A command whose process was killed in between goes on when it is given again. What cannot be
written there is written to the scratch folder instead: training is not lost.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layertune.config import RunConfig
from layertune.config.files import WRITING, expanded, lock_of, locked, remove_abandoned, write_atomic
from layertune.config.kept import ABOUT, FORMAT, INCOMING, has_arrived
from layertune.errors import ConfigError, RunFailed
from layertune.records import Record
from layertune.records.writer import printable_config
from layertune.saved.card import model_card
from layertune.saved.forms import write_form

if TYPE_CHECKING:
    from layertune.methods import Method
    from layertune.models import TaskModel
    from layertune.tasks import TaskData
    from layertune.training.outcome import Evaluated

log = logging.getLogger(__name__)

_SPARE = 1.05  # of the weights' size: tokenizer, settings


def refuse_without_room(run: RunConfig, model: TaskModel) -> None:
    """Refuse, before training, a folder whose disk cannot hold the model.

    Raises:
        ConfigError: it cannot.
    """
    if run.save is None:
        return
    folder = expanded(run.save).absolute()
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    needed = int(_SPARE * sum(p.numel() * p.element_size() for p in model.parameters()))
    free = shutil.disk_usage(there).free
    if free < needed:
        raise ConfigError(
            f"save={run.save}: the model takes {needed / 1e6:,.0f} MB and {free / 1e6:,.0f} MB are free: "
            "make room there, or name a folder on another disk."
        )


def keep_model(run: RunConfig, record: Record, data: TaskData, method: Method, evaluated: Evaluated) -> Path:
    """Write the model that a run has trained; return its folder.

    Raises:
        RunFailed: it could not be written where it belongs; the record is there, and the sentence says where
            the model is, if anywhere.
    """
    assert run.save is not None
    target = expanded(run.save).absolute()

    def write(folder: Path) -> None:
        about = write_form(folder, run, data, method, evaluated)
        about |= {
            "format": FORMAT,
            "run_id": run.run_id,
            "save_epoch": run.save_epoch,
            "epoch": evaluated.epoch,
            "merge": run.merge,
            "kind": data.kind,
            "labels": list(data.provenance.labels),
            "columns": list(run.task.columns),
            "max_length": run.task.max_length,
            "segment_ids": run.task.segment_ids,
            "config": printable_config(run),
        }
        card = model_card(run, record, evaluated.epoch, about["form"])
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_atomic(folder / ABOUT, f"{json.dumps(about, indent=1, ensure_ascii=False)}\n".encode())

    try:
        _put(target, write)
    except OSError as error:
        reason = error.strerror or str(error)
        refuge = (run.cache_dir.parent / "models" / run.run_id).absolute()
        try:
            _put(refuge, write)
        except OSError as second:
            raise RunFailed(
                f"{run.run_id} is done and its record is written, but its model could not be: neither to "
                f"save={run.save} ({reason}) nor to {refuge} ({second.strerror or second}). Make room and "
                "run the same command: it goes on from its checkpoint, or trains again where it made none."
            ) from error
        raise RunFailed(
            f"{run.run_id} is done, but its model could not be written to save={run.save} ({reason}): it is "
            f"in {refuge}."
        ) from error
    log.info("model: %s", target)
    return target


def end_interrupted(run: RunConfig) -> None:
    """Put a model in its place whose process was killed between its files; where none was, do nothing."""
    folder = None if run.save is None else expanded(run.save).absolute()
    if folder is not None and has_arrived(folder):
        with locked(lock_of(folder)):
            _move_in(folder)
        log.info("model: %s, whose writing another process had not ended", folder)


def _put(target: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder beside its place and move it there as a whole; into a folder that is there, from within.

    Whatever ends the process, one model is whole: the one that was there, until the new one is written with
    `layertune.json`; from then on the new one, whose files are moved, that one last.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent)
    with locked(lock_of(target)):
        _move_in(target)
        is_there = target.exists()
        beside = target / INCOMING if is_there else target.with_name(WRITING + target.name)
        shutil.rmtree(beside, ignore_errors=True)
        try:
            beside.mkdir()
            write(beside)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        if is_there:
            _move_in(target)
        else:
            beside.replace(target)


def _move_in(folder: Path) -> None:
    """Move the files of a model that has arrived in a folder to their place."""
    if has_arrived(folder):
        for path in sorted((folder / INCOMING).iterdir(), key=lambda path: path.name == ABOUT):
            path.replace(folder / path.name)
        (folder / INCOMING).rmdir()
