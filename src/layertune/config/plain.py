"""Composition without Hydra, for the thousands of runs behind the tables: the same mapping, much faster.

`compose_tree` is what `run.py` does and stays the reference; a test holds both against each other for cells
of every table. Understood are group choices, dotted values and the `defaults` list of a group's file; whoever
needs more of Hydra's grammar uses `compose_tree`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from layertune.config.build import GROUPS, run_from_hydra
from layertune.config.compose import CONFIG_DIR, base_tree, group_file, group_names
from layertune.config.schema import RunConfig
from layertune.errors import ConfigError

_PRIMARY = {"protocol": "paper", "train": "published", "tracking": "offline"}
_INTERPOLATED = ("study",)  # `${study.train_examples}` in protocol/study.yaml


def plain_run(overrides: Sequence[str]) -> RunConfig:
    """Build the run that `python run.py <overrides>` asks for, wherever its data and weights are.

    Raises:
        ConfigError: the request is wrong.
    """
    return run_from_hydra(plain_tree(overrides) | {"overrides": list(overrides)}, on_this_machine=False)


def plain_tree(overrides: Sequence[str]) -> dict[str, Any]:
    """Compose `config.yaml` with overrides into a plain, resolved mapping; the last value of a key counts.

    Raises:
        ConfigError: a choice does not exist, or an override is not `key=value`.
    """
    choices, values = split_overrides(overrides)
    tree = base_tree()
    for group, name in {**_PRIMARY, **choices}.items():
        tree[group] = merged(tree.get(group, {}), group_choice(group, name))
    recipe = group_file("recipe", choices.get("model", ""))
    if recipe is not None:
        tree["recipe"] = recipe
    tree = merged(tree, _own_values())
    for key, text in values.items():
        tree = merged(tree, _nested(key, _value(key, text)))
    return _resolved(tree)


def split_overrides(overrides: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the chosen group files and the other values of a list of overrides.

    Raises:
        ConfigError: an override is not `key=value`.
    """
    choices: dict[str, str] = {}
    values: dict[str, str] = {}
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"{override!r} is no override: it reads key=value.")
        (choices if key in GROUPS else values)[key] = value
    return choices, values


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with `above` on top; mappings merge key by key, everything else is replaced."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            value = merged(under, value)
        result[key] = value
    return result


@cache
def group_choice(group: str, name: str) -> Mapping[str, Any]:
    """Return the content of a group's file, with the files of its `defaults` list below it."""
    content = group_file(group, name)
    if content is None:
        raise ConfigError(f"{group}={name} does not exist; known: {', '.join(group_names(group))}.")
    own = {key: value for key, value in content.items() if key != "defaults"}
    result: dict[str, Any] = {}
    for entry in content.get("defaults", ["_self_"]):
        file, _, place = str(entry).partition("@")
        below = own if file == "_self_" else group_choice(group, file)
        result = merged(result, _nested(place, below) if place else below)
    return result


@cache
def _own_values() -> Mapping[str, Any]:
    """Return what config.yaml itself sets."""
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "config.yaml"))
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items() if key not in {"defaults", "hydra"}}


def _value(key: str, text: str) -> Any:
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        return _parsed(text)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{key}={text} cannot be read: {error}") from error


@cache
def _parsed(text: str) -> Any:
    """Return the value that a text stands for: 1e-5 is a number, [1,2] a list."""
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    assert isinstance(tree, dict)
    return tree["value"]


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def _resolved(tree: dict[str, Any]) -> dict[str, Any]:
    """Replace interpolations, which only the protocols have."""
    if not any(isinstance(value, str) and "${" in value for value in tree["protocol"].values()):
        return tree
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    part = {key: tree[key] for key in ("protocol", *_INTERPOLATED)}
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(part), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"protocol.* cannot be read: {error}") from error
    assert isinstance(resolved, dict)
    return tree | {str(key): value for key, value in resolved.items()}
