"""Does the choice of layers follow the task (§5.5)? Judged on the layer scores that records hold.

Two samples of one task say how far a task agrees with itself; scores of texts without their words
(`task.control`) say what the score does not have from them.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from layertune.report.index import RecordIndex
from layertune.report.layer_scores import (
    ModelScores,
    TaskScores,
    chosen_layers,
    model_scores,
    rank_correlations,
    scored_tasks,
)
from layertune.report.paper_claims import STRATEGIES, Elsewhere, Status, Verdict
from layertune.report.rounding import printed

CONTROLS = {"unk": "as many [UNK]", "random": "as many random tokens", "other": "texts of another task"}
DRAWS, SEED = 9999, 0  # of the permutation test


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
    samples = _agreement(first, second)
    controls = {
        name: agreement
        for name in CONTROLS
        if (agreement := _agreement(first, _firsts(model_scores(index, model, name)))) is not None
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
    controls = tuple(f"control: {sentence}" for sentence in told(found))
    return Elsewhere("scores", found.verdict, controls, dataclasses.asdict(found))


def told(choice: ChoiceJudged) -> list[str]:
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


def _firsts(known: ModelScores) -> dict[str, TaskScores]:
    return {task: found[0] for task, found in known.by_task.items()}


def _same(one: TaskScores, other: TaskScores) -> float:
    """Return the share of strategies that choose the same layers by both scores."""
    return statistics.fmean(
        chosen_layers(name, one.values) == chosen_layers(name, other.values) for name in STRATEGIES
    )


def _agreement(first: Sequence[TaskScores], second: Mapping[str, TaskScores]) -> Agreement | None:
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
