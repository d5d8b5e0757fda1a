"""The model that a run keeps (`save=<folder>`): what says whose it is. Standard library only.

Every kept model lies in a folder with `layertune.json`, whatever form its weights have. A run whose record is
done trains again for a folder that does not hold its model yet: weights are not kept otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layertune.config.files import expanded
from layertune.errors import ConfigError

if TYPE_CHECKING:
    from layertune.config.run import RunConfig

ABOUT = "layertune.json"
INCOMING = ".layertune-incoming"  # in a folder that is there already: the model that is being put into it
FORMAT = 1  # of that file: raised when what is written today could not be read any more


def read_about(folder: Path) -> dict[str, Any]:
    """Return what `layertune.json` says of the model in a folder.

    Raises:
        ConfigError: there is none, or it cannot be read, or it was being replaced when its process ended.
    """
    if has_arrived(folder):
        raise ConfigError(
            f"{folder} was being written to when its process ended: give the command that wrote it again, "
            "which goes on."
        )
    return _read(folder)


def has_arrived(folder: Path) -> bool:
    """Whether a model that is put into a folder is all there, and only its last files are to be moved."""
    return (folder / INCOMING / ABOUT).is_file()


def _read(folder: Path) -> dict[str, Any]:
    file = folder / ABOUT
    if not file.is_file():
        what = "holds no model of layertune" if folder.is_dir() else "is not a folder"
        raise ConfigError(
            f"{folder} {what}: name one that `layertune fit` wrote, or a run that keeps its model."
        )
    try:
        about = json.loads(file.read_bytes())
        known = isinstance(about, dict) and about.get("format") == FORMAT
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is damaged ({error}): save the model again.") from error
    if not known:
        raise ConfigError(f"{file} is of another version of layertune: save the model again.")
    return dict(about)


def keeps_model_of(run: RunConfig) -> bool:
    """Whether the folder that a run names for its model holds that model already."""
    return run.save is not None and _is_of(run, read_about, expanded(run.save))


def is_free_for(run: RunConfig) -> bool:
    """Whether nothing is in the folder that a run names, or only what an earlier process of it left there."""
    assert run.save is not None
    folder = expanded(run.save)
    if not folder.is_dir():
        return True
    if has_arrived(folder):
        return _is_of(run, _read, folder / INCOMING)
    return keeps_model_of(run) or all(path.name == INCOMING for path in folder.iterdir())


def _is_of(run: RunConfig, read: Callable[[Path], dict[str, Any]], folder: Path) -> bool:
    try:
        about = read(folder)
    except ConfigError:
        return False
    return (about.get("run_id"), about.get("save_epoch"), about.get("merge")) == (
        run.run_id,
        run.save_epoch,
        run.merge,
    )
