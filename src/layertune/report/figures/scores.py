"""Layer scores that records hold, task by task: of one model, one set of weights, the task as configured.

Any record whose method scored the layers by cosine similarity will do, whatever was trained afterwards: a run
with `stage=score` (copied to results/scores to be kept), or a full one. What would change the scores must be
as the configuration says; how many texts were read may differ, and every figure says how many they were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layertune.config.compose import group_names
from layertune.config.plain import group_choice, plain_run
from layertune.config.schema import ConfigError
from layertune.records.record import read_record
from layertune.report.figures.similarity import KeptScores, kept_scores
from layertune.report.index import OFFICIAL, RecordIndex, RunRecord
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
    path: Path  # of the first of them

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
        """Read the scores, their spread and the matrix from the record itself."""
        kept = kept_scores(read_record(self.path))
        assert kept is not None, f"{self.path} was found by its scores"
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
        own = file.get("data") is None and file.get("source") != "synthetic"
        if own and (generates or file.get("kind") != "generation"):
            tasks.append(task)
    return tasks


def model_scores(index: RecordIndex, model: str) -> ModelScores:
    """Return the layer scores of a model.

    Raises:
        ConfigError: there is no such model.
    """
    group_choice("model", model)
    stale = {record.run_id for record in index.stale(trained=False)}
    kept = [
        record
        for record in index.records
        if record.sections["spec"].get("model") == model
        and record.status == "done"
        and not record.failed_checks
        and record.run_id not in stale
        and record.sections["selection"].get("scorer") == SCORER
        and None not in (record.sections["selection"].get("scores") or [None])
        and _asks_as_configured(record)
    ]
    counts = Counter(record.weights for record in kept)
    main = min(counts, key=lambda weights: (-counts[weights], weights), default="")
    others = sorted(record.run_id for record in kept if record.weights != main)
    groups: dict[str, list[TaskScores]] = {}
    for record in sorted((r for r in kept if r.weights == main), key=_largest_first):
        _add(groups.setdefault(str(record.sections["spec"]["task"]), []), record)
    notes = (f"left out, of other weights: {', '.join(others)}",) if others else ()
    return ModelScores(model, {task: tuple(found) for task, found in groups.items()}, notes)


def _largest_first(record: RunRecord) -> tuple[bool, int, str]:
    return (not record.is_official, -int(record.sections["selection"]["examples"]), record.run_id)


def _add(found: list[TaskScores], record: RunRecord) -> None:
    """Add a record's scores, or its id and seed to those that hold the same numbers."""
    selection, data = record.sections["selection"], record.sections["data"]
    values = tuple(float(value) for value in selection["scores"])
    for place, one in enumerate(found):
        if one.examples == selection["examples"] and _equal(one.values, values):
            seeds = tuple(sorted({*one.seeds, record.seed}))
            fields: dict[str, Any] = vars(one) | {"seeds": seeds, "run_ids": (*one.run_ids, record.run_id)}
            found[place] = TaskScores(**fields)
            return
    found.append(
        TaskScores(
            task=str(record.sections["spec"]["task"]),
            values=values,
            examples=int(selection["examples"]),
            total=int(data["counts"]["train"]),
            data_status=record.data_status,
            seeds=(record.seed,),
            run_ids=(record.run_id,),
            path=record.path,
        )
    )


def _equal(one: Sequence[float], other: Sequence[float]) -> bool:
    """Say whether two score vectors are the same but for the order in which a machine adds numbers."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-6


def _asks_as_configured(record: RunRecord) -> bool:
    """Say whether model and task were scored as their files say, whatever the run trained afterwards."""
    spec = record.sections["spec"]
    try:
        asked = plain_run(spec.get("overrides") or ())
        usual = plain_run([f"{group}={spec[group]}" for group in ("model", "task", "method")])
    except (ConfigError, KeyError):  # a file that is gone, or of the author's own
        return False
    same = asked.config_sha256 == record.config_sha256
    one, other = asked.identity(), usual.identity()
    for identity in (one, other):
        for key in ("examples", "batch_size"):
            identity.get("scoring", {}).pop(key, None)
    return same and all(
        (one.get(part) or {}) == (other.get(part) or {}) for part in ("model", "task", "scoring")
    )
