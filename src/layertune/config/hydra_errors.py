"""Errors of Hydra and OmegaConf as one sentence each, with what is allowed instead."""

from __future__ import annotations

import re

from layertune.config.build import unknown_key


def request_error(error: Exception) -> str | None:
    """Turn an error of Hydra or OmegaConf into one sentence with what is allowed; None for other errors."""
    module = type(error).__module__
    if not module.startswith(("hydra", "omegaconf")):
        return None
    text = str(error)
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_override(found[1], text)
    if found := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        return _unknown_choice(found[1], found[2], text)
    if found := re.match(r"ConfigError raised while resolving interpolation: (.+)", text):
        return found[1]  # ours, from a resolver
    if found := re.search(r"You must specify '([^']+)'", text):
        group = found[1]
        return f"No {group} given: say {group}=<name>; allowed: {_choices(group)}."
    return " ".join(text.split())


def _unknown_override(key: str, text: str) -> str:
    from layertune.config.compose import schema_keys

    parent, _, leaf = key.rpartition(".")
    allowed = schema_keys(parent)
    if allowed is None or leaf in allowed:
        return " ".join(text.split())
    return str(unknown_key(key, leaf, allowed))


def _unknown_choice(group: str, name: str, text: str) -> str:
    """Return the sentence for a choice that does not exist; Hydra lists those it found, wherever they lie."""
    from layertune.config.compose import group_names

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


def _choices(group: str) -> str:
    from layertune.config.compose import group_names

    return ", ".join(group_names(group))
