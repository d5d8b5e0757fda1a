"""The configs/ folder: its groups, and what their files hold."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from layertune.config.schema_base import NAME

# In a checkout a link to the configs/ beside run.py, in an installed package a folder of its own.
CONFIG_DIR = (Path(__file__).parents[1] / "configs").resolve()
GROUPS = ("model", "task", "method", "protocol", "train", "tracking", "recipe")


@cache
def group_file(group: str, name: str, folder: Path | None = None) -> Mapping[str, Any] | None:
    """Return the content of `<folder or configs>/<group>/<name>.yaml`, or None where it does not exist.

    What has not the form of a name is none of a file: `../x`, or one longer than a file system takes.
    """
    from omegaconf import OmegaConf

    path = (folder or CONFIG_DIR) / group / f"{name}.yaml"
    if not NAME.holds(name) or not path.is_file():
        return None
    content = OmegaConf.to_container(OmegaConf.load(path))  # reads 1e-5 as a number; plain YAML reads text
    assert isinstance(content, dict), f"{path} is not a mapping"
    return {str(key): value for key, value in content.items()}


def group_names(group: str) -> list[str]:
    """List the choices of a configuration group."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
