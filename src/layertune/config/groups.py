"""The configs/ folder: its groups, and what their files hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from layertune.config.schema import NAME
from layertune.errors import ConfigError

# In a checkout a link to the configs/ beside run.py, in an installed package a folder of its own.
CONFIG_DIR = (Path(__file__).parents[1] / "configs").resolve()
P = ParamSpec("P")
T = TypeVar("T")
_caches: list[Any] = []  # of functions that read groups
_own_folders: list[Path] = []  # with groups of one's own, as `--config-dir` names them
GROUPS = ("model", "task", "method", "protocol", "train", "tracking", "recipe")


def cached_by_folders(function: Callable[P, T]) -> Callable[P, T]:
    """Remember what a function made of the groups' files, as long as the same folders are looked into."""
    remembered = cache(function)
    _caches.append(remembered)
    return cast(Callable[P, T], remembered)


@contextmanager
def looking_into(folders: Iterable[str | Path]) -> Iterator[None]:
    """Find groups in these further folders (`--config-dir`) and in no others meanwhile, behind `configs/`.

    Raises:
        ConfigError: there is no such folder.
    """
    wanted: list[Path] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ConfigError(f"--config-dir={folder} is no folder: name one that holds method/<name>.yaml.")
        if folder.resolve() not in (CONFIG_DIR, *(own.resolve() for own in wanted)):
            wanted.append(folder)
    before = list(_own_folders)
    _look_into(wanted)
    try:
        yield
    finally:
        _look_into(before)


def _look_into(folders: list[Path]) -> None:
    if folders != _own_folders:
        _own_folders[:] = folders
        for remembered in _caches:
            remembered.cache_clear()


def own_folders() -> tuple[Path, ...]:
    """Return the folders besides `configs/` in which groups are found."""
    return tuple(_own_folders)


def own_names(group: str) -> list[str]:
    """List the choices of a group that are one's own: not in `configs/`."""
    found = {path.stem for folder in _own_folders for path in (folder / group).glob("*.yaml")}
    return sorted(found - {path.stem for path in (CONFIG_DIR / group).glob("*.yaml")})


@cached_by_folders
def group_file(group: str, name: str, folder: Path | None = None) -> Mapping[str, Any] | None:
    """Return the content of `<group>/<name>.yaml` in a folder, or None where it does not exist.

    Without a folder: in `configs/`, else in those of one's own. What has not the form of a name is none of a
    file: `../x`, or one longer than a file system takes.
    """
    from omegaconf import OmegaConf

    if not NAME.holds(name):
        return None
    paths = [
        place / group / f"{name}.yaml" for place in ([folder] if folder else [CONFIG_DIR, *_own_folders])
    ]
    if (path := next((path for path in paths if path.is_file()), None)) is None:
        return None
    content = OmegaConf.to_container(OmegaConf.load(path))  # reads 1e-5 as a number; plain YAML reads text
    assert isinstance(content, dict), f"{path} is not a mapping"
    return {str(key): value for key, value in content.items()}


def group_names(group: str) -> list[str]:
    """List the choices of a configuration group."""
    return sorted([*(path.stem for path in (CONFIG_DIR / group).glob("*.yaml")), *own_names(group)])
