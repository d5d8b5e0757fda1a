"""Composition: the configs/ folder, the schema's defaults below it, and runs from a list of overrides."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from layertune.config.schema import (
    CacheSpec,
    CheckpointSpec,
    MethodSpec,
    ModelSpec,
    ProtocolSpec,
    RunConfig,
    ScoringSpec,
    TaskSpec,
    TrackingSpec,
    TrainSpec,
)
from layertune.errors import ConfigError

# In a checkout a link to the configs/ beside run.py, in an installed package a folder of its own.
CONFIG_DIR = (Path(__file__).parents[1] / "configs").resolve()

_NODES = {
    "model": ModelSpec,
    "task": TaskSpec,
    "method": MethodSpec,
    "protocol": ProtocolSpec,
    "train": TrainSpec,
    "scoring": ScoringSpec,
    "cache": CacheSpec,
    "tracking": TrackingSpec,
    "checkpoint": CheckpointSpec,
}


def register_schema() -> None:
    """Store the schema's defaults as Hydra's node `base`: every field can be overridden without a `+`."""
    from hydra.core.config_store import ConfigStore

    from layertune.config.grids import register_resolvers

    ConfigStore.instance().store(name="base", node=base_tree())
    register_resolvers()


def base_tree() -> dict[str, Any]:
    """Return the schema's defaults as nested plain values: what every composition starts from."""
    base: dict[str, Any] = {name: _defaults(cls) for name, cls in _NODES.items()}
    base.update(_defaults(RunConfig, leave_out=_NODES))
    base["method"].pop("options")
    return base


def _defaults(cls: Any, leave_out: Container[str] = ()) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if field.name in leave_out or field.metadata.get("derived"):
            continue
        default: Any = field.default
        if default is dataclasses.MISSING:
            factory: Any = field.default_factory
            assert factory is not dataclasses.MISSING, f"{cls.__name__}.{field.name} has no default"
            default = factory()
        values[field.name] = (
            _defaults(type(default)) if dataclasses.is_dataclass(default) else _listed(default)
        )
    return values


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@cache
def group_file(group: str, name: str, folder: Path | None = None) -> Mapping[str, Any] | None:
    """Return the content of `<folder or configs>/<group>/<name>.yaml`, or None where it does not exist."""
    from omegaconf import OmegaConf

    path = (folder or CONFIG_DIR) / group / f"{name}.yaml"
    if not path.is_file():
        return None
    content = OmegaConf.to_container(OmegaConf.load(path))  # reads 1e-5 as a number; plain YAML reads text
    assert isinstance(content, dict), f"{path} is not a mapping"
    return {str(key): value for key, value in content.items()}


def group_names(group: str) -> list[str]:
    """List the choices of a configuration group."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


@contextmanager
def _hydra(config_dir: Path) -> Iterator[None]:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_schema()
    outer = (
        GlobalHydra.instance().hydra
    )  # the application around us, where run.py or a sweep composes further runs
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().clear()
        if outer is not None:
            GlobalHydra.instance().initialize(outer)


def compose_tree(overrides: Sequence[str], config_dir: Path = CONFIG_DIR) -> dict[str, Any]:
    """Compose `config.yaml` with overrides into a plain, resolved mapping.

    Raises:
        ConfigError: an override names a group, a choice or a key that does not exist.
    """
    from hydra import compose
    from omegaconf import OmegaConf

    from layertune.config.hydra_errors import check_overrides, request_error

    check_overrides(overrides)
    try:
        with _hydra(config_dir):
            tree = OmegaConf.to_container(compose("config", overrides=list(overrides)), resolve=True)
    except Exception as error:
        if (sentence := request_error(error)) is None:
            raise
        raise ConfigError(sentence) from error
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def compose_run(*overrides: str, config_dir: Path = CONFIG_DIR) -> RunConfig:
    """Build the run that `python run.py <overrides>` would execute.

    Raises:
        ConfigError: the request is wrong.
    """
    return RunConfig.from_hydra(compose_tree(overrides, config_dir) | {"overrides": list(overrides)})
