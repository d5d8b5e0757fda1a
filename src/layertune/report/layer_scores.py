"""Layer scores that records hold, task by task, and whether the choice of layers follows the task (§5.5).

Any record whose method scored the layers by cosine similarity will do, whatever was trained afterwards: a run
with `stage=score` (copied to results/scores to be kept), or a full one. What would change the scores must be
as the configuration says; how many texts were read may differ, and every figure says how many they were.
"""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
from layertune.report.paper_claims import STRATEGIES, Elsewhere, Status, Verdict
from layertune.report.rounding import printed
from layertune.report.spec import load_table
from layertune.selection import SELECTORS

SCORER = "cosine"  # §3.1
CONTROLS = {"unk": "as many [UNK]", "random": "as many random tokens", "other": "texts of another task"}
DRAWS, SEED = 9999, 0  # of the permutation test


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

    @property
    def firsts(self) -> dict[str, TaskScores]:
        """The largest sample of each task."""
        return {task: found[0] for task, found in self.by_task.items()}

    def first(self, tasks: Iterable[str]) -> list[TaskScores]:
        """Return the largest sample of each task that has scores, in the order of the tasks."""
        return [self.firsts[task] for task in tasks if task in self.by_task]


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
    """Add scores, or only their seed and run id where the same numbers are there already.

    Numbers within 1e-6 are the same: machines add in different orders.
    """
    for place, one in enumerate(found):
        apart = max(abs(a - b) for a, b in zip(one.values, new.values, strict=True))
        if one.examples == new.examples and apart < 1e-6:
            seeds = tuple(sorted({*one.seeds, *new.seeds}))
            found[place] = replace(one, seeds=seeds, run_ids=(*one.run_ids, *new.run_ids))
            return
    found.append(new)


def _asks_as_configured(record: Record, control: str) -> bool:
    """Say whether model and task were scored as their files say, under the control that is asked for.

    What the run trained afterwards does not matter.
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


@dataclass(frozen=True)
class Agreement:
    """Rank correlations (Spearman) between the scores of tasks and other scores of the same tasks."""

    own: tuple[float, ...]  # of each task with its own other scores
    others: float  # mean, of each task with those of other tasks
    p: float  # chance that tasks agree with their own so much, if the others were anybody's
    same_layers: float  # share of tasks and strategies that choose the same layers


@dataclass(frozen=True)
class ChoiceJudged:
    """Whether the choice of layers follows the task, and what it is judged on."""

    verdict: Verdict
    tasks: tuple[str, ...]
    same_layers: float | None  # share of pairs of tasks and strategies that choose the same layers
    samples: Agreement | None  # with a second sample of the same task
    controls: Mapping[str, Agreement]


def judge_choice(index: RecordIndex, model: str) -> ChoiceJudged:
    """Judge the claim for one model.

    It holds where a task agrees with itself more than with others (permutation test) and two tasks choose
    unlike layers more often than not; it does not hold where they mostly choose the same. Between, what is
    not beyond chance is within noise.

    Raises:
        ConfigError: there is no such model.
    """
    known = model_scores(index, model)
    first = known.first(scored_tasks(model))
    pairs = list(combinations(first, 2))
    if not pairs:
        nothing = Verdict("not_enough_runs", {}, "fewer than two tasks have scores")
        return ChoiceJudged(nothing, (), None, None, {})
    same = statistics.fmean(_same(one, other) for one, other in pairs)
    second = {task: found[1] for task, found in known.by_task.items() if len(found) > 1}
    samples = _own_and_others(first, second)
    controls = {
        name: found
        for name in CONTROLS
        if (found := _own_and_others(first, model_scores(index, model, name).firsts)) is not None
    }
    status: Status = "within_noise"
    if same >= 0.5:
        status = "does_not_hold"
    elif samples is None:
        status = "not_enough_runs"
    elif samples.p < 0.05:
        status = "holds"
    numbers = {"two tasks choose the same layers": same}
    reason = f"two of {len(first)} tasks choose the same layers in {printed(100 * same, 0)} % of cases"
    if samples is not None:
        own = statistics.fmean(samples.own)
        numbers |= {"agreement with itself": own, "agreement with others": samples.others, "p": samples.p}
        reason += (
            f"; orders of layers agree with a second sample of the same task by {printed(own, 3)} "
            f"(Spearman), with other tasks' by {printed(samples.others, 3)}, permutation p {samples.p:.2g}"
        )
    return ChoiceJudged(
        Verdict(status, numbers, reason), tuple(one.task for one in first), same, samples, controls
    )


def choice_claim(index: RecordIndex, model: str) -> Elsewhere:
    """Judge the claim for `make claims`; see `judge_choice`."""
    found = judge_choice(index, model)
    controls = tuple(f"control: {sentence}" for sentence in control_sentences(found))
    return Elsewhere("scores", found.verdict, controls, dataclasses.asdict(found))


def control_sentences(choice: ChoiceJudged) -> list[str]:
    """Return what the controls say, a sentence each."""
    lines = []
    for name, found in choice.controls.items():
        lines.append(
            f"{CONTROLS[name]} in place of each text: orders agree with those of the texts by "
            f"{printed(statistics.fmean(found.own), 3)}, at least {printed(min(found.own), 3)}, with other "
            f"tasks' by {printed(found.others, 3)} (permutation p {found.p:.2g}); the same layers in "
            f"{printed(100 * found.same_layers, 0)} % of tasks and strategies"
        )
    return lines


def _same(one: TaskScores, other: TaskScores) -> float:
    """Return the share of strategies that choose the same layers by both scores."""
    return statistics.fmean(
        chosen_layers(name, one.values) == chosen_layers(name, other.values) for name in STRATEGIES
    )


def _own_and_others(first: Sequence[TaskScores], second: Mapping[str, TaskScores]) -> Agreement | None:
    """Compare tasks with other scores of theirs; the test deals these out to the tasks at random."""
    import numpy as np

    mine = [one for one in first if one.task in second]
    if len(mine) < 3:
        return None
    theirs = [second[one.task] for one in mine]
    found = np.array([[rank_correlations(one.values, other.values)[0] for other in theirs] for one in mine])
    rng, places = np.random.default_rng(SEED), np.arange(len(mine))
    dealt = np.array([found[places, rng.permutation(len(mine))].mean() for _ in range(DRAWS)])
    own = found.diagonal()
    return Agreement(
        own=tuple(own.tolist()),
        others=float(found[~np.eye(len(mine), dtype=bool)].mean()),
        p=float((1 + (dealt >= own.mean() - 1e-12).sum()) / (1 + DRAWS)),
        same_layers=statistics.fmean(_same(one, other) for one, other in zip(mine, theirs, strict=True)),
    )
