"""From the records of a search to `configs/recipe/<model>.yaml`: rate, epochs and batch of a task and method.

Paper: §4.4 takes the optimal values of each data set and does not say on which rows they were compared.
Choice: [search] the highest mean, over seeds, of the metric a table prints, after the last epoch, on held-out
training data; ties go to the smaller rate, then to fewer epochs, then to the larger batch. Compared are runs
that differ from the defaults of a grid in nothing but those three values, on the seeds that all of them have.
Under `grid=tuned` a method gets one choice for all tasks, the highest mean over the tasks that were searched,
and a best rate at the edge of what was tried is no choice yet: the next rate is to be tried first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layertune.config import RunConfig
from layertune.config.compose import plain_run
from layertune.config.files import write_atomic
from layertune.config.rates import EVERY_TASK, GRIDS, by_grid, next_rate
from layertune.errors import ConfigError, RecipeError
from layertune.records.record import Record
from layertune.records.store import read_files, versions_of

Values = tuple[float, int, int]
VALUES = ("learning_rate", "epochs", "batch_size")


@dataclass(frozen=True)
class RecipeEntry:
    """What a search found for one task, or for all, and one method under one grid."""

    task: str  # `default` where one choice holds for every task
    method: str
    grid: str
    values: Values
    score: float  # 0..1, mean over seeds
    seeds: tuple[int, ...]
    records: tuple[str, ...]  # ids of all runs that were compared
    tasks: tuple[str, ...] = ()  # that the mean is over, where one choice holds for every task
    untried: float | None = None  # the rate to try before this one can be taken: it lies at the edge


@dataclass(frozen=True)
class _Run:
    """One record of a search, with the run of a grid's defaults that it answers."""

    record: Record
    asked: RunConfig

    @property
    def values(self) -> Values:
        train = self.asked.train
        assert train.learning_rate is not None and train.epochs is not None and train.batch_size is not None
        return train.learning_rate, train.epochs, train.batch_size


def objective(run: RunConfig, record: Record) -> float | None:
    """Return what a search maximises: the task's metric after the last epoch; None without an evaluation.

    A metric that is not finite (a correlation of constant outputs) is worse than every other.
    """
    if record.metrics is None:
        return None
    value = record.metric("last", run.task.data_name, run.task.metric)
    return float("-inf") if value is None else value


def search_records(folder: Path, model: str) -> list[Record]:
    """Read the records of a model's searches from a folder of records; what is damaged there is said."""
    found, _ = read_files(sorted(folder.glob(f"{model}-*.json")))
    return [
        record for record in found.values() if record.spec.protocol == "search" and record.spec.stage == "run"
    ]


def choose(
    records: Iterable[Record],
    model: str,
    grid: str | None = None,
    train: str = "published",
    settings: Sequence[str] = (),
) -> tuple[list[RecipeEntry], list[str]]:
    """Choose rate, epochs and batch size for every task and method; also return the ids of runs left out.

    Args:
        records: of searches, as `search_records` reads them.
        model: whose records they are.
        grid: paper | fair | tuned; None = the only one that the records were made under.
        train: published | fast, the mode of the runs that are compared.
        settings: further overrides that all runs of the search were made with.

    Raises:
        RecipeError: there are no such records, or they are stale, come from several grids, data sets or
            weights, or have no seed in common.
    """
    kept = list(records)
    matched = {name: _of_grid(kept, model, name, train, settings) for name in GRIDS}
    grid = grid or _only_grid(matched)
    groups: dict[tuple[str, str], list[_Run]] = {}
    for run in matched[grid]:
        task = EVERY_TASK if grid == "tuned" else run.asked.task.name
        groups.setdefault((task, run.asked.method.name), []).append(run)
    # A run that two grids have in common does not make a search under both.
    searched = [
        group for _, group in sorted(groups.items()) if any(r.record.spec.grid == grid for r in group)
    ]
    if not searched:
        raise RecipeError(
            f"no search of {model} under grid={grid}: python run.py sweep=rates model={model} task=<task> "
            f"method=<method> grid={grid}."
        )
    found = [_found(group, grid) for group in searched]
    used = {name for one in found for name in one.records}
    return found, [record.run_id for record in kept if record.run_id not in used]


def _of_grid(
    records: Sequence[Record], model: str, grid: str, train: str, settings: Sequence[str]
) -> list[_Run]:
    """Return the records whose configuration is a grid's default but for the three values and the seed."""
    runs = []
    for record in records:
        spec = record.spec
        if record.run is None:  # of options that are gone
            continue
        tried = record.run.train
        try:
            asked = plain_run(
                [
                    *(f"model={model}", f"task={spec.task}", f"method={spec.method}", f"train={train}"),
                    *("protocol=search", f"grid={grid}", f"seed={spec.seed}"),
                    *(f"train.{key}={getattr(tried, key)}" for key in VALUES),
                    *settings,
                ]
            )
        except ConfigError:  # a task or method of its author's own, or one that is gone
            continue
        if asked.config_sha256 == record.identity.config_sha256 and record.status != "interrupted":
            runs.append(_Run(record, asked))
    return runs


def _only_grid(matched: Mapping[str, Sequence[_Run]]) -> str:
    """Return the one grid that explains all records that any grid explains."""
    ids = {
        grid: {run.record.run_id for run in runs}
        for grid, runs in matched.items()
        if any(run.record.spec.grid == grid for run in runs)
    }
    every = set().union(*({run.record.run_id for run in runs} for runs in matched.values()))
    whole = [grid for grid in ("paper", *GRIDS) if ids.get(grid) == every]
    if not whole and every:
        counts = ", ".join(f"{grid}: {len(found)}" for grid, found in sorted(ids.items()))
        raise RecipeError(f"the records come from several grids ({counts}): say which with --grid.")
    return whole[0] if whole else "paper"


def _found(runs: Sequence[_Run], grid: str) -> RecipeEntry:
    tasks = tuple(sorted({run.asked.task.name for run in runs}))
    shared = grid == "tuned"
    method = runs[0].asked.method.name
    what = method if shared else f"{tasks[0]}, {method}"
    for task in tasks:
        _refuse_what_does_not_compare(
            [run for run in runs if run.asked.task.name == task], f"{task}, {method}"
        )
    candidates: dict[Values, dict[tuple[str, int], _Run]] = {}
    for run in runs:
        candidates.setdefault(run.values, {})[run.asked.task.name, run.record.spec.seed] = run
    finished = {
        values: by_case
        for values, by_case in candidates.items()
        if all(run.record.status == "done" for run in by_case.values())
    }
    cases = set.intersection(*map(set, finished.values())) if finished else set()
    if not cases:
        why = "no two have a seed in common" if finished else "all failed"
        raise RecipeError(f"{what}: of {len(candidates)} candidates {why}.")
    if missing := set(tasks) - {task for task, _ in cases}:
        raise RecipeError(f"{what}: not every rate was tried on {', '.join(sorted(missing))}.")
    compared = {values: [by_case[case] for case in sorted(cases)] for values, by_case in finished.items()}
    scores = {values: _mean_score(group) for values, group in compared.items()}
    best = min(scores, key=lambda values: (-scores[values], values[0], values[1], -values[2]))
    rates = [values[0] for values in candidates]
    edges = (min(rates), max(rates))  # beyond them nothing was tried
    return RecipeEntry(
        task=EVERY_TASK if shared else tasks[0],
        method=method,
        grid=grid,
        values=best,
        score=scores[best],
        seeds=tuple(sorted({seed for _, seed in cases})),
        records=tuple(sorted(run.record.run_id for group in compared.values() for run in group)),
        tasks=tasks if shared else (),
        untried=next_rate(best[0], up=best[0] == max(rates)) if shared and best[0] in edges else None,
    )


def _refuse_what_does_not_compare(runs: Sequence[_Run], what: str) -> None:
    stale = [run.record.run_id for run in runs if run.record.versions != versions_of(run.asked)]
    if stale:
        raise RecipeError(f"stale records, of older versions: {', '.join(stale)}; repeat or delete them.")
    several = {
        "data sets": {run.record.data.fingerprint_sha256 for run in runs if run.record.data},
        "weights": {run.record.model.weights for run in runs if run.record.model},
    }
    for name, found in several.items():
        if len(found) > 1:
            raise RecipeError(f"{what}: the records come from {len(found)} {name}; keep those of one.")


def _mean_score(runs: Sequence[_Run]) -> float:
    scores = [objective(run.asked, run.record) for run in runs]
    mean = sum(float("-inf") if score is None else score for score in scores) / len(scores)
    return round(mean, 12)  # a tie does not hang on the order of a sum


def write_recipe(path: Path, found: Sequence[RecipeEntry]) -> None:
    """Write choices into a recipe; what it says of other tasks, methods and grids stays.

    Raises:
        RecipeError: the file is there and is not a recipe.
    """
    from omegaconf import OmegaConf

    # Read as configurations are: 1e-5 is a number here, and text to plain YAML.
    tree: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    if not isinstance(tree, dict) or not all(isinstance(methods, dict) for methods in tree.values()):
        raise RecipeError(f"{path} does not read task -> method -> values.")
    for one in found:
        methods = tree.setdefault(one.task, {})
        entry = methods.get(one.method) or {}
        if entry and not by_grid(entry):  # it held under every grid: the other grids keep it
            entry = {grid: dict(entry) for grid in GRIDS}
        rate, epochs, batch_size = one.values
        chosen = {"learning_rate": rate, "epochs": epochs, "batch_size": batch_size, "score": one.score}
        notes = {"seeds": list(one.seeds), "records": list(one.records)}
        notes |= {"tasks": list(one.tasks)} if one.tasks else {}
        methods[one.method] = entry | {one.grid: chosen | notes}
    body = OmegaConf.to_yaml(OmegaConf.create(dict(sorted(tree.items()))))
    write_atomic(path, (_HEAD.format(model=path.stem) + body).encode())


_HEAD = """# What searches on held-out training data found for {model}, by task, method and grid. Written by
#   python scripts/choose_recipe.py {model}
# and used by every run.py model={model} task=<task> method=<method> grid=<grid>; `default` is every task.
# Rule: highest mean over seeds of the task's metric after the last epoch; ties: the smaller rate, then fewer
# epochs, then the larger batch. `records` are the runs that were compared.
"""
