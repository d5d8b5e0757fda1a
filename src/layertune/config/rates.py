"""Training values and where each comes from: command line > train file > recipe > protocol > method > task >
grid > built-in. The result has no None left except where None is a meaning of its own, and `origin` names the
source of every value, so that a record can say why it trained the way it did.

A grid is the list of learning rates that a search tries, the rate where nothing was searched, the head's.
`grid=paper` is the one list the paper states (§4.4), for every method. `grid=fair` gives each method the list
of its own source. `grid=tuned` gives each method four rates to search, a factor of two to three apart; the
recipe then holds one rate per method for all tasks. A method's YAML names only what differs:

    grids: {fair: [1e-4, 2e-4, 5e-4]}   # the list; its middle is the rate without a search,
    grid_rates: {fair: 2e-4}            # unless this says otherwise,
    task_rates: {cola: 8e-5}            # or this, for one task, under grid=fair
    head_rates: {fair: 1e-4}            # the head's rate

A recipe (`configs/recipe/<model>.yaml`) holds what a search found, by task, method and grid:

    rte:
      lora:
        fair: {learning_rate: 2.0e-4, epochs: 5, batch_size: 32, score: 0.71, seeds: [0], records: [...]}

`scripts/choose_recipe.py` writes such files. An entry without a grid holds under every grid. The task
`default` stands for every task that names no values of its own. `NOTES` say where the values came from and
change nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, get_args

from layertune.config.build import build_dataclass
from layertune.config.identity import can_be_adaptive
from layertune.config.schema import Grid, MethodSpec, TrainDefaults
from layertune.errors import ConfigError

if TYPE_CHECKING:
    from layertune.config.run import RunConfig

GRIDS = tuple(sorted(get_args(Grid)))
PAPER_RATES = (1e-5, 2e-5, 5e-5)  # Paper: §4.4
# Choice: [rates of `grid=tuned`] four per method; most of a model lies still, so they begin where the paper's
# list ends.
TUNED_RATES = (5e-5, 1e-4, 2e-4, 5e-4)
FAIR_HEAD_RATE = 5e-5  # the head is the same for every method, and so is its rate


def rates_to_search(own: Mapping[str, Sequence[float]], grid: str) -> tuple[float, ...]:
    """Return the learning rates a search tries: of a method's own lists (its `grids`) that of the grid, else
    the grid's.
    """
    return tuple(float(rate) for rate in own.get(grid, TUNED_RATES if grid == "tuned" else PAPER_RATES))


def next_rate(rate: float, up: bool) -> float:
    """Return the next rate of the series 1, 2, 5, 10, 20, … (times a power of ten), upwards or downwards.

    A rate between two members of the series goes on to the nearer end of its gap.
    """
    exponent = math.floor(math.log10(rate) + 1e-9)
    series = [float(f"{digit}e{power}") for power in range(exponent - 1, exponent + 2) for digit in (1, 2, 5)]
    beyond = [one for one in series if (one > rate * 1.001 if up else one < rate * 0.999)]
    return min(beyond) if up else max(beyond)


def middle(rates: Sequence[float]) -> float:
    """Return the middle of a list of rates, the lower one of an even number."""
    return sorted(rates)[(len(rates) - 1) // 2]


def rates_of_method(run: RunConfig) -> TrainDefaults:
    """Return the rates that a method names itself for the grid and task of a run; None for none."""
    method, grid = run.method, run.grid
    return TrainDefaults(learning_rate=_own_rate(run), head_learning_rate=method.head_rates.get(grid))


def _own_rate(run: RunConfig) -> float | None:
    method, task = run.method, run.task
    if run.grid == "fair":
        for name in (task.name, task.data_name):
            if name in method.task_rates:
                return method.task_rates[name]
    if run.grid in method.grid_rates:
        return method.grid_rates[run.grid]
    return middle(method.grids[run.grid]) if run.grid in method.grids else None


def rates_of_grid(run: RunConfig) -> TrainDefaults:
    """Return the rates of a grid for a method that names none; a task's own rate comes before them.

    Under `paper` and `tuned` the head has the backbone's rate. A generation task has no head of its own: its
    language-model head follows the backbone under every grid.
    """
    own_head = run.grid == "fair" and run.task.kind != "generation"
    return TrainDefaults(
        learning_rate=middle(rates_to_search({}, run.grid)),
        head_learning_rate=FAIR_HEAD_RATE if own_head else None,
    )


# -- for configs/sweep: a search over a method's own list ---------------------------------------------------


def register_resolvers() -> None:
    """Make `${rates:${method},${grid}}` and `${rate_range:...}` known to configurations."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("rates", _rates, replace=True)
    OmegaConf.register_new_resolver("rate_range", _rate_range, replace=True)


def _rates(method: Any, grid: str, *, _root_: Any) -> str:
    """Return the rates to search as a sweep: `1e-05,2e-05,5e-05`."""
    return ",".join(f"{rate!r}" for rate in _listed(method, grid, _root_, ("method", "grid")))


def _rate_range(method: Any, grid: str, *, _root_: Any) -> str:
    """Return the lowest and the highest rate to search as `interval(1e-05,5e-05)`."""
    rates = _listed(method, grid, _root_, ("model", "task", "method", "grid", "seed"))
    return f"interval({min(rates)!r},{max(rates)!r})"


def _listed(method: Any, grid: str, root: Any, single: Sequence[str]) -> tuple[float, ...]:
    """Return the rates of a composed method; the keys in `single` must have one value each."""
    for override in root.hydra.overrides.task:
        key, _, value = str(override).partition("=")
        if key in single and ("," in value or "(" in value):
            raise ConfigError(f"{override}: a search over a method's own rates takes one {key} per command.")
    if not method.get("name"):
        raise ConfigError("No method given: a search over a method's own rates takes one method per command.")
    return rates_to_search(method.get("grids", {}), grid)


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


# Paper: §4.4 gives AdamW, betas (0.9, 0.99), weight decay 0.01 and grids for rate, epochs and batch size.
# Choice: [epochs, batch, rate] within the grids the released code's values: 5 epochs, batch 32, 2e-5; linear
# decay, no warm-up, no clipping.
BUILT_IN = TrainDefaults(
    epochs=5,
    batch_size=32,
    learning_rate=middle(PAPER_RATES),
    betas=(0.9, 0.99),
    weight_decay=0.01,
    schedule="linear",
    warmup_ratio=0.0,
    label_smoothing=0.0,
    precision="fp32",
)

BY_TASK = "_by_task"


def resolve_training(run: RunConfig, recipe: Mapping[str, Mapping[str, TrainDefaults]]) -> RunConfig:
    """Fill every open `train.*` value of a run and record its origin.

    Args:
        recipe: task -> method -> values found by a search, for this model.
    """
    method, named = run.method.train, rates_of_method(run)
    method = replace(
        method,
        learning_rate=_first(named.learning_rate, method.learning_rate),
        head_learning_rate=_first(named.head_learning_rate, method.head_learning_rate),
    )
    typed, from_file = _split_by_hand(run)
    sources: list[tuple[str, TrainDefaults]] = [
        ("command line", typed),
        (f"train {_train_file(run)}", from_file),
        ("recipe", values_of(recipe, run.task.name, run.method)),
        (f"protocol {run.protocol.name}", run.protocol.train),
        (f"method {run.method.name}", method),
        (f"task {run.task.name}", run.task.train),
        *([(f"grid {run.grid}", rates_of_grid(run))] if run.grid != "paper" else []),
        ("built-in", BUILT_IN),
    ]
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for field in fields(TrainDefaults):
        for name, source in sources:
            value = getattr(source, field.name)
            if value is not None:
                values[field.name], origin[field.name] = value, name
                break
    if values["precision"] == "auto":
        values["precision"], origin["precision"] = precision_here(run)
    if values.get("head_learning_rate") == values["learning_rate"]:
        values["head_learning_rate"] = None  # one rate for both is the neutral case
    few = "adaptive" if run.train.mode == "fast" and can_be_adaptive(run) else None
    scored = _first(run.scoring.examples, few, run.task.score_examples, "all")
    scoring = replace(run.scoring, examples=scored)
    spec = replace(run.method, options=_options_of_task(run))
    return replace(run, method=spec, train=replace(run.train, **values), scoring=scoring, origin=origin)


def precision_here(run: RunConfig) -> tuple[str, str]:
    """Return bf16 where this machine computes in it and the model can, else fp32; and why.

    A processor that has AVX512 alone computes bf16 by way of fp32, which gains nothing.
    """
    if "fp32" not in run.model.precisions or "bf16" not in run.model.precisions:
        (only,) = run.model.precisions
        return only, "auto: the model takes no other"
    has, what = bf16_on(run.train.device)
    return ("bf16", f"auto: this {what} has bf16") if has else ("fp32", f"auto: this {what} has no bf16")


def bf16_on(device: str) -> tuple[bool, str]:
    """Return whether what computes under `train.device` does so in bf16 by itself, and what it is."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False), "CUDA device"
    units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return units and torch.ops.mkldnn._is_mkldnn_bf16_supported(), "processor"


def _options_of_task(run: RunConfig) -> dict[str, Any]:
    """Return the method's options; where `x_by_task` lists values by task, `x` takes the run's.

    The list itself goes: the value for another task is no part of a run. `default` is for all other tasks.
    """
    options = {key: value for key, value in run.method.options.items() if not key.endswith(BY_TASK)}
    for key, listed in run.method.options.items():
        option = key.removesuffix(BY_TASK)
        if key.endswith(BY_TASK) and options.get(option) is None:
            found = (listed.get(name) for name in (run.task.name, run.task.data_name, "default"))
            options[option] = _first(*found)
    return options


def _split_by_hand(run: RunConfig) -> tuple[TrainDefaults, TrainDefaults]:
    """Return the `train.*` values that the command line gave, and those of the file in configs/train.

    Without a command line (a mapping built by a program) all were given by hand.
    """
    given = {override.lstrip("+").partition("=")[0] for override in run.overrides}
    typed: dict[str, Any] = {}
    from_file: dict[str, Any] = {}
    for field in fields(TrainDefaults):
        by_hand = not given or f"train.{field.name}" in given
        (typed if by_hand else from_file)[field.name] = getattr(run.train, field.name)
    return TrainDefaults(**typed), TrainDefaults(**from_file)


def _train_file(run: RunConfig) -> str:
    chosen = [item.partition("=")[2] for item in run.overrides if item.partition("=")[0] == "train"]
    return chosen[-1] if chosen else run.train.mode


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
