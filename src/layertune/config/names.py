"""Names in plain dictionaries: a known name, or a dotted path in its place."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TypeVar

from layertune.errors import ConfigError, did_you_mean, in_words

Value = TypeVar("Value")


def resolve_name(name: str, known: Mapping[str, Value], what: str) -> Value:
    """Return `known[name]`, or the object at a dotted path such as `my_package.my_module.my_scorer`.

    Raises:
        ConfigError: the name is unknown (the message lists the known ones) or the path cannot be imported.
    """
    if name in known:
        return known[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ConfigError(
            f"{what}={name} does not exist; known: {', '.join(sorted(known))}, or a dotted path to your own."
            + did_you_mean(name, known)
        )
    try:
        value: Value = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the module's own code raises
        raise ConfigError(f"{what}={name} cannot be imported: {in_words(error)}.") from error
    if not callable(value):
        raise ConfigError(f"{what}={name} is {type(value).__name__}, nothing that can be called.")
    return value
