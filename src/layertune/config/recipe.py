"""`configs/recipe/<model>.yaml`: training values that a search found, by task, method and grid.

    rte:
      lora:
        fair: {learning_rate: 2.0e-4, epochs: 5, batch_size: 32, score: 0.71, seeds: [0], records: [...]}

`scripts/choose_recipe.py` writes such files. An entry without a grid holds under every grid. The task
`default` stands for every task that names no values of its own. `NOTES` say where the values came from and
change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layertune.config.build import build_dataclass
from layertune.config.grids import GRIDS
from layertune.config.schema import MethodSpec, TrainDefaults
from layertune.errors import ConfigError

NOTES = ("records", "score", "seeds", "tasks", "train")
EVERY_TASK = "default"


def build_recipe(recipe: Any, grid: str) -> dict[str, dict[str, TrainDefaults]]:
    """Return task -> method -> the training values that hold under a grid.

    Raises:
        ConfigError: the file is not nested as it should be, or names a value that does not exist.
    """
    built: dict[str, dict[str, TrainDefaults]] = {}
    for task, methods in _mapping(recipe or {}, "recipe").items():
        built[task] = {}
        for method, entry in _mapping(methods, f"recipe.{task}").items():
            where = f"recipe.{task}.{method}"
            values = _mapping(entry, where)
            if by_grid(values):
                where, values = f"{where}.{grid}", _mapping(values.get(grid, {}), f"{where}.{grid}")
            chosen = {key: value for key, value in values.items() if key not in NOTES}
            built[task][method] = build_dataclass(TrainDefaults, chosen, where)
    return built


def values_of(
    recipe: Mapping[str, Mapping[str, TrainDefaults]], task: str, method: MethodSpec
) -> TrainDefaults:
    """Return what a recipe says of a task and method: of the method itself, else of the one it names."""
    for name in (method.name, method.recipe_of):
        for where in (task, EVERY_TASK):
            found = recipe.get(where, {}).get(name or "", TrainDefaults())
            if found != TrainDefaults():
                return found
    return TrainDefaults()


def by_grid(entry: Mapping[str, Any]) -> bool:
    """Say whether an entry is split by grid; one without a split holds under every grid."""
    return bool(entry) and set(entry) <= set(GRIDS)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}={value!r} is not allowed: recipes read task -> method -> values.")
    return value
