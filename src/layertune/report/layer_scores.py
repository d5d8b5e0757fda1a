"""Layer scores that records hold, task by task: of one model, one set of weights, the task as configured.

Any record whose method scored the layers by cosine similarity will do, whatever was trained afterwards: a run
with `stage=score` (copied to results/scores to be kept), or a full one. What would change the scores must be
as the configuration says; how many texts were read may differ, and every figure says how many they were.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations
from typing import Any

from layertune.config import RunConfig
from layertune.config.compose import group_choice, plain_run
from layertune.config.groups import group_names
from layertune.errors import ConfigError
from layertune.records.record import OFFICIAL, Record
from layertune.report.index import RecordIndex
from layertune.report.spec import load_table
from layertune.selection import SELECTORS

SCORER = "cosine"  # §3.1


@dataclass(frozen=True)
class KeptScores:
    """Layer scores as a record keeps them; what was not finite is nan."""

    values: Sequence[float]
    std: Sequence[float]
    matrix: Sequence[Sequence[float]] | None


def kept_scores(record: Record) -> KeptScores | None:
    """Return the scores of a record; None where its method scored no layers."""

    def numbers(values: Sequence[float | None]) -> list[float]:
        return [math.nan if value is None else value for value in values]

    found = record.selection
    if found is None or found.scores is None or found.std is None:
        return None
    matrix = None if found.matrix is None else [numbers(row) for row in found.matrix]
    return KeptScores(numbers(found.scores), numbers(found.std), matrix)


@dataclass(frozen=True)
class TaskScores:
    """The scores of one task from one sample of its training texts."""

    task: str
    values: tuple[float, ...]  # [L]
    examples: int  # texts that were scored
    total: int  # training texts that the run had
    data_status: str
    seeds: tuple[int, ...]  # of the records that hold these numbers
    run_ids: tuple[str, ...]
    record: Record  # the first of them

    @property
    def title(self) -> str:
        """The task's printed name, ‡ where its rows are not the official ones."""
        mark = "" if self.data_status == OFFICIAL else " ‡"
        return f"{group_choice('task', self.task)['title']}{mark}"

    @property
    def sample(self) -> str:
        """How many texts were scored, of how many."""
        return f"{self.examples:,} of {self.total:,} training texts"

    def read(self) -> KeptScores:
        """Return the scores, their spread and the matrix."""
        kept = kept_scores(self.record)
        assert kept is not None, f"{self.record.run_id} was found by its scores"
        return kept


@dataclass(frozen=True)
class ModelScores:
    """All that records say of the layer scores of one model."""

    model: str
    by_task: dict[str, tuple[TaskScores, ...]]  # the largest sample first; distinct numbers only
    left_out: tuple[str, ...]  # sentences: records of other weights

    def first(self, tasks: Iterable[str]) -> list[TaskScores]:
        """Return the largest sample of each task that has scores, in the order of the tasks."""
        return [self.by_task[task][0] for task in tasks if task in self.by_task]


@dataclass(frozen=True)
class OrderAgreement:
    """Rank correlations of two score vectors, -1..1; 1 = the same order of layers."""

    one: TaskScores
    other: TaskScores
    spearman: float
    kendall: float  # tau-b


def scored_tasks(model: str) -> list[str]:
    """Return the tasks with training texts of their own: those of Tables 1 and 2, then the others."""
    printed = [column.task for name in ("table1", "table2") for column in load_table(name).columns]
    generates = group_choice("model", model).get("family") == "decoder"
    known = group_names("task")
    tasks = []
    for task in dict.fromkeys([*printed, *known]):
        if task not in known:
            continue  # the column of averages
        file = group_choice("task", task)
        own = file.get("data") is None and file.get("source") not in ("synthetic", "own")
        if own and (generates or file.get("kind") != "generation"):
            tasks.append(task)
    return tasks


def chosen_layers(method: str, values: tuple[float, ...]) -> tuple[int, ...]:
    """Return the layers that a method of selection takes, with the k of its file, given the scores [L]."""
    file = group_choice("method", method)
    k = min(int(file["k"]), len(values) - 1)
    return SELECTORS[str(file["selector"])](len(values), k, values, random.Random(0))


def model_scores(index: RecordIndex, model: str, control: str = "none") -> ModelScores:
    """Return the layer scores of a model: of the texts, or of what `task.control` puts in their place.

    Raises:
        ConfigError: there is no such model.
    """
    num_layers = group_choice("model", model)["num_layers"]
    stale = {record.run_id for record in index.stale(trained=False)}
    found = [
        one
        for record in index.records
        if record.spec.model == model and record.status == "done" and not record.failed_checks
        if record.run_id not in stale and (one := _task_scores(record)) is not None
        if len(one.values) == num_layers and _asks_as_configured(record, control)
    ]
    counts = Counter(one.record.weights for one in found)
    main = min(counts, key=lambda weights: (-counts[weights], weights), default="")
    others = sorted(one.record.run_id for one in found if one.record.weights != main)
    groups: dict[str, list[TaskScores]] = {}
    for one in sorted(found, key=lambda one: (one.data_status != OFFICIAL, -one.examples, one.run_ids)):
        if one.record.weights == main:
            _add(groups.setdefault(one.task, []), one)
    notes = (f"left out, of other weights: {', '.join(others)}",) if others else ()
    return ModelScores(model, {task: tuple(own) for task, own in groups.items()}, notes)


def _task_scores(record: Record) -> TaskScores | None:
    """Return the scores of a record, without those that were not finite; None where there are none."""
    found = record.selection
    if found is None or found.scorer != SCORER or record.data is None:
        return None
    return TaskScores(
        task=record.spec.task,
        values=tuple(value for value in found.scores or () if value is not None),
        examples=found.examples,
        total=record.data.counts["train"],
        data_status=record.data_status,
        seeds=(record.spec.seed,),
        run_ids=(record.run_id,),
        record=record,
    )


def _add(found: list[TaskScores], new: TaskScores) -> None:
    """Add scores, or their run id and seed to those that hold the same numbers.

    The same but for the order in which a machine adds numbers.
    """
    for place, one in enumerate(found):
        apart = max(abs(a - b) for a, b in zip(one.values, new.values, strict=True))
        if one.examples == new.examples and apart < 1e-6:
            seeds = tuple(sorted({*one.seeds, *new.seeds}))
            found[place] = replace(one, seeds=seeds, run_ids=(*one.run_ids, *new.run_ids))
            return
    found.append(new)


def _asks_as_configured(record: Record, control: str) -> bool:
    """Say whether model and task were scored as their files say, whatever the run trained afterwards.

    But for the control of the texts, which is asked for.
    """
    spec = record.spec
    usual = _usual_run(spec.model, spec.task, spec.method, control)
    return record.run is not None and usual is not None and _asked(record.run) == _asked(usual)


def _asked(run: RunConfig) -> list[dict[str, Any]]:
    """Return what decides the scores of a run, apart from how many texts are read and how many at once."""
    identity = run.identity()
    for key in ("examples", "batch_size"):
        identity.get("scoring", {}).pop(key, None)
    return [identity.get(part) or {} for part in ("model", "task", "scoring")]


@cache
def _usual_run(model: str, task: str, method: str, control: str) -> RunConfig | None:
    """Return the run of three files as they are; None where one is gone, or was the author's own."""
    words = [f"model={model}", f"task={task}", f"method={method}"]
    try:
        return plain_run(words if control == "none" else [*words, "stage=score", f"task.control={control}"])
    except ConfigError:
        return None


def rank_correlations(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Return Spearman's rho and Kendall's tau-b of two vectors; nan where one is constant."""
    from scipy.stats import kendalltau, spearmanr

    return float(spearmanr(one, other).statistic), float(kendalltau(one, other).statistic)


def agreement(one: TaskScores, other: TaskScores) -> OrderAgreement:
    """Return how alike two tasks, or two samples of a task, order the layers."""
    return OrderAgreement(one, other, *rank_correlations(one.values, other.values))


def between_tasks(first: Sequence[TaskScores]) -> list[OrderAgreement]:
    """Return the agreement of every two tasks, one sample of each."""
    return [agreement(one, other) for one, other in combinations(first, 2)]


def within_tasks(groups: Sequence[Sequence[TaskScores]]) -> list[OrderAgreement]:
    """Return the agreement of every two samples of one task that gave distinct numbers."""
    return [found for group in groups for found in between_tasks(group)]


def defined(values: Iterable[float]) -> list[float]:
    """Return the correlations that exist: with a constant there is none."""
    return [value for value in values if math.isfinite(value)]


def median(values: Iterable[float]) -> float:
    """Return the median of the correlations that exist; nan of none."""
    return statistics.median(defined(values) or [math.nan])
