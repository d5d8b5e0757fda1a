"""Typed merge: a composed Hydra configuration becomes a frozen `RunConfig`, or one clear sentence.

Nothing after this module sees a `DictConfig`. The schema is `layertune.config.schema`; checks that involve
several groups are in `layertune.config.checks`, and `train.*` values are resolved in
`layertune.config.resolve`.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import re
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from layertune.config.schema import MethodSpec, RunConfig
from layertune.config.schema_base import Allowed, IsPath, Name
from layertune.config.schema_task import METRICS
from layertune.errors import ConfigError

log = logging.getLogger(__name__)

GROUPS = ("model", "task", "method", "protocol", "train", "tracking", "recipe")
_EXTRA_KEYS = {"recipe", "study"}  # composed beside the run, consumed while building it


@cache
def _hints(cls: type) -> dict[str, Any]:
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
    hints = _hints(cls)
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


@cache
def path_keys(cls: Any = RunConfig, where: str = "") -> tuple[str, ...]:
    """List the keys whose value is a file or folder of this machine, dotted."""
    found: list[str] = []
    for name, annotation in _hints(cls).items():
        in_union = get_origin(annotation) in (Union, types.UnionType)
        options = get_args(annotation) if in_union else (annotation,)
        if any(isinstance(mark, IsPath) for option in options for mark in get_args(option)):
            found.append(where + name)
        for group in options:
            if isinstance(group, type) and dataclasses.is_dataclass(group):
                found += path_keys(group, f"{where}{name}.")
    return tuple(found)


def unknown_key(full: str, key: str, allowed: Sequence[str]) -> ConfigError:
    """Return the error for a name that does not exist: it lists what does, and the likeliest meant."""
    near = difflib.get_close_matches(key, allowed, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"{full} does not exist; allowed here: {', '.join(sorted(allowed))}.{hint}")


def build_method(mapping: Mapping[str, Any], declared: Mapping[str, Any] | None = None) -> MethodSpec:
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


def run_from_hydra(cfg: Any, on_this_machine: bool = True) -> RunConfig:
    """Build, resolve and check a run from a composed configuration (a `DictConfig` or a plain mapping).

    Args:
        on_this_machine: also check that data and weights are where the configuration says; a report asks
            for runs that other machines made.
    """
    from layertune.config.checks import check_run
    from layertune.config.recipe import build_recipe
    from layertune.config.resolve import resolve_training

    tree = dict(_container(cfg))
    tree.pop("hydra", None)
    recipe = tree.pop("recipe", None)
    tree.pop("study", None)
    if "table" in tree:
        raise ConfigError("table=<name> is for sweeps: python run.py -m hydra/sweeper=table table=<name>.")
    if (k := tree.pop("k", None)) is not None:
        raise ConfigError(f"k={k} is for landscapes (-m hydra/sweeper=landscape); here say method.k={k}.")
    method = tree.pop("method", None)
    for group, example in _EXAMPLES.items():
        chosen = method if group == "method" else tree.get(group)
        if not isinstance(chosen, Mapping) or chosen.get("name") in (None, ""):
            raise ConfigError(f"No {group} given: say {group}=<name>, for example {group}={example}.")
    assert isinstance(method, Mapping)
    overrides = tuple(tree.pop("overrides", ())) if _is_plain(cfg) else tuple(_command_line())
    declared = _declared_method(method, () if _is_plain(cfg) else _config_dirs())
    run: RunConfig = build_dataclass(RunConfig, {**tree, "method": {}}, "")
    spec = _without_inert_k(build_method(method, declared), declared)
    run = dataclasses.replace(run, method=spec, overrides=overrides)
    run = resolve_training(_with_head(_with_own_columns(run)), build_recipe(recipe, run.grid))
    check_run(run, on_this_machine)
    return run


def _with_own_columns(run: RunConfig) -> RunConfig:
    """Let `own.*` say what a task of one's own reads, and of what kind it is."""
    if run.task.source != "own":
        return run
    own, task = run.own, run.task
    task = dataclasses.replace(task, columns=(own.text, own.text2) if own.text2 else (own.text,))
    if own.regression:
        metrics = METRICS["regression"]
        task = dataclasses.replace(task, kind="regression", metric=metrics[0], metrics=metrics)
    return dataclasses.replace(run, task=task)


def _with_head(run: RunConfig) -> RunConfig:
    """Give data of one's own the standard head; a head that would be in force anyway is not asked for."""
    otherwise = run.method.head or run.model.head
    own = run.task.source == "own" and run.method.head is None
    asked = run.head or ("standard" if own else otherwise)
    return dataclasses.replace(run, head=None if asked == otherwise else asked)


def _without_inert_k(method: MethodSpec, declared: Mapping[str, Any] | None) -> MethodSpec:
    """Drop a k that nothing reads, so that a sweep over methods with one k asks for each run once."""
    reads_k = method.selector is not None or declared is None or declared.get("k") is not None
    if method.k is None or reads_k:
        return method
    log.warning(
        "method.k=%d has no effect: method=%s selects no layers; it is left out.", method.k, method.name
    )
    return dataclasses.replace(method, k=None)


_EXAMPLES = {"model": "bert", "task": "sst2", "method": "low_k"}


def _is_plain(cfg: Any) -> bool:
    return isinstance(cfg, Mapping) and not hasattr(
        cfg, "_metadata"
    )  # a DictConfig is a mapping with metadata


def _container(cfg: Any) -> Mapping[str, Any]:
    if _is_plain(cfg):
        plain: Mapping[str, Any] = cfg
        return plain
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        place = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise ConfigError(f"{place}{str(error).splitlines()[0]}") from error
    assert isinstance(tree, Mapping)
    return {str(key): value for key, value in tree.items()}


def _declared_method(method: Mapping[str, Any], folders: Sequence[Path]) -> Mapping[str, Any] | None:
    """Return the content of a method's own YAML: in configs/, else in the folders given, else None."""
    from layertune.config.compose import group_file

    name = convert(Name, method["name"], "method.name")
    found = (group_file("method", name, folder) for folder in (None, *folders))
    return next((content for content in found if content is not None), None)


def _config_dirs() -> list[Path]:
    """Return the folders of configurations of the running Hydra job (`--config-dir`), none outside one."""
    from hydra.core.hydra_config import HydraConfig

    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    return [Path(source.path) for source in sources if source.schema == "file"]


def _command_line() -> list[str]:
    """Return the overrides of the running Hydra job, none outside one."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
