"""Typed merge: nested plain values become frozen dataclasses, or one clear sentence."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from layertune.config.schema import Allowed, MethodSpec
from layertune.errors import ConfigError, did_you_mean


@cache
def hints_of(cls: type) -> dict[str, Any]:
    """Return the annotations of a dataclass by field."""
    return get_type_hints(cls, include_extras=True)


def describe(annotation: Any) -> str:
    """Say in words which values an annotation allows."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([describe(args[0]), *(rule.words for rule in args[1:] if isinstance(rule, Allowed))])
    if origin in (Union, types.UnionType):
        return " or ".join("null" if arg is type(None) else describe(arg) for arg in args)
    if origin is Literal:
        return " | ".join(str(arg) for arg in args)
    if origin is tuple:
        return f"a list of {describe(args[0])}"
    if origin is dict:
        return "a mapping"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
    names |= {tuple: "a list", dict: "a mapping"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def convert(annotation: Any, value: Any, where: str) -> Any:
    """Return `value` as the annotated type, or raise a ConfigError with the place and what is allowed."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return _freeze(value, where)
    if origin is Annotated:
        converted = convert(args[0], value, where)
        if all(rule.holds(converted) for rule in args[1:] if isinstance(rule, Allowed)):
            return converted
    elif origin in (Union, types.UnionType):
        return _convert_union(args, annotation, value, where)
    elif origin is Literal:
        if value in args and type(value) in {type(arg) for arg in args}:
            return value
    elif dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if isinstance(value, Mapping):
            return build_dataclass(annotation, value, where)
    elif origin is tuple:
        if isinstance(value, Sequence) and not isinstance(value, str):
            return tuple(convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    elif origin is dict:
        if isinstance(value, Mapping):
            return {
                convert(args[0], str(key), f"the key of {where}"): convert(args[1], item, f"{where}.{key}")
                for key, item in value.items()
            }
    elif annotation is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(_freeze(value, where))
    elif type(value) is annotation:
        return _freeze(value, where)
    raise ConfigError(f"{where}={value!r} is not allowed: {where} takes {describe(annotation)}.")


def _convert_union(args: tuple[Any, ...], annotation: Any, value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    options = [arg for arg in args if arg is not type(None)]
    if len(options) == 1:  # keep the precise message of the only alternative
        return convert(options[0], value, where)
    for option in options:
        try:
            return convert(option, value, where)
        except ConfigError:
            continue
    raise ConfigError(f"{where}={value!r} is not allowed: {where} takes {describe(annotation)}.")


def _freeze(value: Any, where: str) -> Any:
    """Return a value without types of its own: lists become tuples, and what no field takes is refused."""
    if isinstance(value, Mapping):
        return {_freeze(str(key), where): _freeze(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_freeze(item, where) for item in value)
    if isinstance(value, int | float) and not abs(value) < _BEYOND:  # NaN too
        raise ConfigError(f"{where}={value!r} is not allowed: numbers are finite and below 2^63.")
    if isinstance(value, str) and _CONTROL.search(value):
        raise ConfigError(
            f"{where}={value!r} is not allowed: it holds control characters or half a character."
        )
    return value


_BEYOND = 2**63  # whole numbers of the libraries end here


_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")  # line breaks and tabs are text


def build_dataclass(cls: Any, mapping: Mapping[str, Any], where: str) -> Any:
    """Build a frozen dataclass from a mapping; every key must be a field and every value of its type.

    Raises:
        ConfigError: an unknown key (the message lists the allowed ones and the nearest) or a wrong type.
    """
    hints = hints_of(cls)
    given = [field.name for field in dataclasses.fields(cls) if not field.metadata.get("derived")]
    allowed = {name: hints[name] for name in given}
    for key in mapping:
        if key not in allowed:
            raise unknown_key(f"{where}.{key}" if where else str(key), str(key), list(allowed))
    values = {
        key: convert(allowed[key], value, f"{where}.{key}" if where else key)
        for key, value in mapping.items()
    }
    return cls(**values)


def unknown_key(full: str, key: str, allowed: Sequence[str]) -> ConfigError:
    """Return the error for a name that does not exist: it lists what does, and the likeliest meant."""
    hint = did_you_mean(key, allowed)
    return ConfigError(f"{full} does not exist; allowed here: {', '.join(sorted(allowed))}.{hint}")


def build_method_spec(mapping: Mapping[str, Any], declared: Mapping[str, Any] | None = None) -> MethodSpec:
    """Build a method; keys beyond the fields of `MethodSpec` are its options.

    Args:
        mapping: the composed group.
        declared: the content of the method's own YAML: it says which options exist and of which type.
    """
    fields = {field.name for field in dataclasses.fields(MethodSpec)} - {"options"}
    options: dict[str, Any] = {}
    for key, value in mapping.items():
        if key in fields:
            continue
        if declared is not None and key not in declared:
            raise unknown_key(f"method.{key}", key, sorted(fields | set(declared)))
        options[key] = _option(key, value, (declared or {}).get(key))
    plain = {key: value for key, value in mapping.items() if key in fields}
    spec: MethodSpec = build_dataclass(MethodSpec, plain, "method")
    return dataclasses.replace(spec, options=options)


def _option(key: str, value: Any, example: Any) -> Any:
    where = f"method.{key}"
    frozen = _freeze(value, where)
    if example is None or value is None:
        return frozen
    kind = type(_freeze(example, where))
    if kind is float:
        return convert(float, value, where)
    if type(frozen) is not kind:
        raise ConfigError(f"{where}={value!r} is not allowed: {where} takes {describe(kind)}.")
    if kind is tuple and len({type(item) for item in example}) == 1:  # each element as in the YAML
        return tuple(_option(f"{key}[{i}]", item, example[0]) for i, item in enumerate(frozen))
    return frozen
