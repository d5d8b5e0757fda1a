"""Errors of Hydra and OmegaConf as one sentence each, with what is allowed instead."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from layertune.config.build import unknown_key
from layertune.config.groups import CONFIG_DIR, group_names
from layertune.config.run import base_tree
from layertune.config.schema import NAME
from layertune.errors import ConfigError, one_line, with_causes

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
