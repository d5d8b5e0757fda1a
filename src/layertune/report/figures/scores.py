"""Layer scores that records hold, task by task: of one model, one set of weights, the task as configured.

Any record whose method scored the layers by cosine similarity will do, whatever was trained afterwards: a run
with `stage=score` (copied to results/scores to be kept), or a full one. What would change the scores must be
as the configuration says; how many texts were read may differ, and every figure says how many they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from layertune.config import RunConfig
from layertune.config.compose import group_choice, plain_run
from layertune.config.groups import group_names
from layertune.errors import ConfigError
from layertune.records.record import OFFICIAL, Record
from layertune.report.figures.similarity import KeptScores, kept_scores
from layertune.report.index import RecordIndex
from layertune.report.spec import load_table

SCORER = "cosine"  # §3.1


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


def scored_tasks(model: str) -> list[str]:
    """Return the tasks with training texts of their own: those of Tables 1 and 2, then the others."""
    printed = [column.task for name in ("table1", "table2") for column in load_table(name).columns]
    generates = group_choice("model", model).get("family") == "decoder"
    tasks = []
    for task in dict.fromkeys([*printed, *group_names("task")]):
        if task not in group_names("task"):
            continue  # the column of averages
        file = group_choice("task", task)
        own = file.get("data") is None and file.get("source") not in ("synthetic", "own")
        if own and (generates or file.get("kind") != "generation"):
            tasks.append(task)
    return tasks


def model_scores(index: RecordIndex, model: str, control: str = "none") -> ModelScores:
    """Return the layer scores of a model: of the texts, or of what `task.control` puts in their place.

    Raises:
        ConfigError: there is no such model.
    """
    num_layers = group_choice("model", model)["num_layers"]
    stale = {record.run_id for record in index.stale(trained=False)}
    kept = [
        record
        for record in index.records
        if record.spec.model == model
        and record.status == "done"
        and not record.failed_checks
        and record.run_id not in stale
        and record.selection is not None
        and record.selection.scorer == SCORER
        and len(_values(record)) == num_layers
        and record.data is not None
        and _asks_as_configured(record, control)
    ]
    counts = Counter(record.weights for record in kept)
    main = min(counts, key=lambda weights: (-counts[weights], weights), default="")
    others = sorted(record.run_id for record in kept if record.weights != main)
    groups: dict[str, list[TaskScores]] = {}
    scores = [_task_scores(record) for record in kept if record.weights == main]
    for one in sorted(scores, key=lambda one: (one.data_status != OFFICIAL, -one.examples, one.run_ids)):
        _add(groups.setdefault(one.task, []), one)
    notes = (f"left out, of other weights: {', '.join(others)}",) if others else ()
    return ModelScores(model, {task: tuple(found) for task, found in groups.items()}, notes)


def _values(record: Record) -> tuple[float, ...]:
    """Return the scores of a record [L]; none where there are none, or where one was not finite."""
    found = (record.selection.scores if record.selection is not None else None) or ()
    return tuple(value for value in found if value is not None)


def _task_scores(record: Record) -> TaskScores:
    assert record.selection is not None and record.data is not None, "it holds scores"
    return TaskScores(
        task=record.spec.task,
        values=_values(record),
        examples=record.selection.examples,
        total=record.data.counts["train"],
        data_status=record.data_status,
        seeds=(record.spec.seed,),
        run_ids=(record.run_id,),
        record=record,
    )


def _add(found: list[TaskScores], new: TaskScores) -> None:
    """Add scores, or their run id and seed to those that hold the same numbers."""
    for place, one in enumerate(found):
        if one.examples == new.examples and _equal(one.values, new.values):
            seeds = tuple(sorted({*one.seeds, *new.seeds}))
            found[place] = replace(one, seeds=seeds, run_ids=(*one.run_ids, *new.run_ids))
            return
    found.append(new)


def _equal(one: Sequence[float], other: Sequence[float]) -> bool:
    """Say whether two score vectors are the same but for the order in which a machine adds numbers."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-6


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
