"""Learning rates by grid: the list a search tries, the rate where nothing was searched, the head's rate.

`grid=paper` is the one list the paper states (§4.4), for every method. `grid=fair` gives each method the list
of its own source. `grid=tuned` gives each method four rates to search, a factor of two to three apart; the
recipe then holds one rate per method for all tasks. A method's YAML names only what differs:

    grids: {fair: [1e-4, 2e-4, 5e-4]}   # the list; its middle is the rate without a search,
    grid_rates: {fair: 2e-4}            # unless this says otherwise,
    task_rates: {cola: 8e-5}            # or this, for one task, under grid=fair
    head_rates: {fair: 1e-4}            # the head's rate
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from layertune.config.schema import Grid, TrainDefaults
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
