"""Composition: the configs/ folder, the schema's defaults below it, and runs from a list of overrides; errors
of Hydra and OmegaConf as one sentence each, with what is allowed instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from layertune.config.build import unknown_key
from layertune.config.groups import CONFIG_DIR, GROUPS, cached_by_folders, group_file, group_names
from layertune.config.rates import register_resolvers
from layertune.config.run import RunConfig, base_tree, run_from_hydra
from layertune.config.schema import NAME
from layertune.errors import ConfigError, did_you_mean, one_line, with_causes

_LONG_VALUE = 300  # characters of a value that a sentence shows


def check_overrides(overrides: Sequence[str]) -> None:
    """Read overrides as Hydra will.

    Raises:
        ConfigError: Hydra cannot read one of them, or a group is given something else than a name; the
            sentence names it.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, groups = OverridesParser.create(), {path.name for path in CONFIG_DIR.iterdir() if path.is_dir()}
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except (HydraException, RecursionError) as error:
            raise ConfigError(_unreadable(text)) from error
        group = override.key_or_group
        if not group:
            raise ConfigError(_unreadable(text))
        if override.is_delete() or not (group in groups or group.startswith("hydra/")):
            continue
        if not all(isinstance(name, str) and NAME.holds(name) for name in _names_given(override)):
            raise ConfigError(f"{text[:_LONG_VALUE]} is not allowed: {group} takes a name{_one_of(group)}.")


def _unreadable(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[~+]*[\w.@/:-]+", key, re.ASCII):
        return f"{text!r} is no override: it reads key=value, for example seed=1."
    quoted = value.replace("\\", "\\\\").replace('"', '\\"') if len(value) < _LONG_VALUE else "…"
    return (
        f"{key}={value[:_LONG_VALUE]} cannot be read: a value with other signs than letters and digits "
        f"stands in two quotes, Hydra's inside the shell's: '{key}=\"{quoted}\"'."
    )


def _one_of(group: str) -> str:
    names = group_names(group)
    return f", one of {', '.join(names)}" if names else ""


def _names_given(override: Any) -> list[Any]:
    """Return the names that an override gives a group: one, or those of a sweep."""
    value = override.value()
    choices = getattr(value, "list", None)  # of a sweep over choices
    return list(choices) if choices is not None else [value]


def request_error(error: Exception) -> str | None:
    """Turn an error of Hydra or OmegaConf into one sentence with what is allowed; None for other errors."""
    if not _is_of_hydra(error):
        return None
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_override(found[1], text)
    if found := re.search(r"Could not find '((?:hydra/)?[^'/]+)/([^']+)'", text):
        return _unknown_choice(found[1], found[2], text)
    if ours := [each for each in with_causes(error) if isinstance(each, ConfigError)]:  # from a resolver
        return str(ours[0])
    if found := re.search(r"You must specify '([^']+)'", text):
        group = found[1]
        return f"No {group} given: say {group}=<name>; allowed: {', '.join(group_names(group))}."
    for pattern, sentence in _SENTENCES:
        if found := re.search(pattern, text):
            return one_line(sentence.format(*found.groups()))
    return one_line(text) or f"the request cannot be composed ({type(error).__name__})."


# Of what is said before a word is found not to fit the configuration: what Hydra says, and what is said here.
_SENTENCES = (
    (r"An item is already at '(.+?)'", "{0} is there already: say {0}=<value>, without the +."),
    (r"(\S+) appears more than once", "{0} is chosen twice: say {0}=<name> once, without the +."),
    (r"delete from config\. '(.+?)' does not exist", "~{0} removes nothing: {0} does not exist."),
    (r"The value of '(.+?)' is (.*) and not (.*)\.", "~{0}={2} removes nothing: {0} is {1}."),
    (r"Could not delete '(.+?)'\. No match", "~{0} removes nothing: no {0} is chosen."),
)


def _is_of_hydra(error: Exception) -> bool:
    """Whether an error is one of Hydra or OmegaConf, or a built-in one that their code raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return any(name.split(".")[0] in ("hydra", "omegaconf") for name in (type(error).__module__, raised_in))


def _unknown_override(key: str, text: str) -> str:
    """Return the sentence for a key that does not exist: what stands at the first part that is wrong."""
    tree: Any = base_tree() | {"recipe": {}, "study": {}}
    path = ""
    for part in key.split("."):
        full = f"{path}.{part}" if path else part
        if not isinstance(tree, dict):
            return f"{key} does not exist: {path} is {'null' if tree is None else 'one value'} here."
        if not tree:  # a mapping without keys of its own
            return f"{full} does not exist yet: to add it, say +{key}=<value>."
        if part not in tree and not key.startswith("hydra"):
            return str(unknown_key(full, part, list(tree)))
        tree, path = tree.get(part), full
    return one_line(text)


def _unknown_choice(group: str, name: str, text: str) -> str:
    """Return the sentence for a choice that does not exist; Hydra lists those it found, wherever they lie."""
    listed = text.partition(f"Available options in '{group}':")[2].partition("Config search path")[0]
    sentence = str(unknown_key(f"{group}={name}", name, listed.split() or group_names(group)))
    if group.startswith("hydra/") and name in _EXTRAS:
        sentence += f" It comes with pip install 'layertune[{_EXTRAS[name]}]'."
    return sentence


_EXTRAS = {
    "optuna": "search",
    "joblib": "launchers",
    "submitit_local": "launchers",
    "submitit_slurm": "launchers",
}


def register_schema() -> None:
    """Store the schema's defaults as Hydra's node `base`: every field can be overridden without a `+`."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="base", node=base_tree())
    register_resolvers()


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


# -- without Hydra ------------------------------------------------------------------------------------------
# The thousands of runs behind the tables: the same mapping, much faster. `compose_tree` is what `run.py` does
# and stays the reference; a test holds both against each other for every cell of every table. Understood are
# group choices, dotted values and the `defaults` list of a group's file.


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
    chosen, own = _config_yaml()
    for group, name in {**chosen, **choices}.items():
        tree[group] = merge_trees(tree.get(group, {}), group_choice(group, name))
    recipe = group_file("recipe", choices.get("model", ""))
    if recipe is not None:
        tree["recipe"] = recipe
    tree = merge_trees(tree, own)
    for key, text in values.items():
        tree = merge_trees(tree, _nested(key, _value(key, text)))
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


def merge_trees(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with `above` on top; mappings merge key by key, everything else is replaced."""
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        if isinstance(under, Mapping) and isinstance(value, Mapping):
            value = merge_trees(under, value)
        result[key] = value
    return result


@cached_by_folders
def group_choice(group: str, name: str) -> Mapping[str, Any]:
    """Return the content of a group's file, with the files of its `defaults` list below it."""
    content = group_file(group, name)
    if content is None:
        names = group_names(group)
        raise ConfigError(
            f"{group}={name} does not exist; known: {', '.join(names)}.{did_you_mean(name, names)}"
        )
    own = {key: value for key, value in content.items() if key != "defaults"}
    result: dict[str, Any] = {}
    for entry in content.get("defaults", ["_self_"]):
        file, _, place = str(entry).partition("@")
        below = own if file == "_self_" else group_choice(group, file)
        result = merge_trees(result, _nested(place, below) if place else below)
    return result


@cache
def _config_yaml() -> tuple[Mapping[str, str], Mapping[str, Any]]:
    """Return which file of each group config.yaml names, and the values that it sets itself."""
    from omegaconf import OmegaConf

    content = OmegaConf.to_container(OmegaConf.load(CONFIG_DIR / "config.yaml"))
    assert isinstance(content, dict)
    entries = [entry for entry in content["defaults"] if isinstance(entry, dict)]
    named = {str(group): name for entry in entries for group, name in entry.items()}
    chosen = {group: name for group, name in named.items() if group in GROUPS and name != "???"}
    return chosen, {str(key): value for key, value in content.items() if key not in {"defaults", "hydra"}}


def _value(key: str, text: str) -> Any:
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        return _parsed(text)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"{key}={text} cannot be read: {error}") from error


@cache
def _parsed(text: str) -> Any:
    """Return the value that a text stands for: 1e-5 is a number, [1,2] a list; no is a word, as in Hydra."""
    from omegaconf import OmegaConf

    if text.lower() in ("yes", "no", "on", "off"):  # true and false in YAML 1.1
        return text
    tree = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))
    assert isinstance(tree, dict)
    return tree["value"]


def _nested(path: str, value: Any) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def _resolved(tree: dict[str, Any]) -> dict[str, Any]:
    """Replace interpolations, which only the protocols have: `${study.train_examples}`."""
    if not any(isinstance(value, str) and "${" in value for value in tree["protocol"].values()):
        return tree
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    part = {key: tree[key] for key in ("protocol", "study")}
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(part), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"protocol.* cannot be read: {error}") from error
    assert isinstance(resolved, dict)
    return tree | {str(key): value for key, value in resolved.items()}
