"""What landscapes say of two claims of the paper: its scores find good layers, and good ones follow the task.

Judged on whole landscapes of three layers, where every set was trained.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import combinations
from math import comb
from pathlib import Path
from statistics import fmean

import numpy as np

from layertune.landscape.page import Page, read_pages
from layertune.landscape.questions import Array, percentiles
from layertune.landscape.rows import FOLDER
from layertune.report.claims import BY_SCORES, Judge
from layertune.report.index import RecordIndex
from layertune.report.paper_claims import STRATEGIES, Elsewhere, Status, Verdict
from layertune.report.render.words import listed
from layertune.report.rounding import printed
from layertune.report.spec import choice_title

K = 3  # of the paper
DRAWS, SEED = 1999, 0
ALIKE = 0.1  # of a rank correlation: tasks that differ by less order the sets alike


def judges(results: Path) -> Mapping[str, Judge]:
    """Return what judges the claims that no table settles, by the landscapes of a folder of results."""
    pages = cache(lambda index, model: _whole(results / FOLDER, index, model))  # both claims read the same

    def by(verdict: Callable[[Sequence[Page]], Verdict]) -> Judge:
        def judge(index: RecordIndex, model: str) -> Elsewhere:
            found = pages(index, model)
            return Elsewhere("landscapes", verdict(found), (), {"landscapes": [page.name for page in found]})

        return judge

    return {**BY_SCORES, "landscape_rules": by(better_than_chance), "landscape_tasks": by(follows_the_task)}


def _whole(folder: Path, index: RecordIndex, model: str) -> list[Page]:
    """Return one landscape of each task, that of the most seeds, the last by name of equals."""
    whole: dict[str, Page] = {}
    for page in read_pages(folder, index, model):
        known = whole.get(page.ground.task)
        is_whole = page.k == K and len(page.scores.sets) == comb(page.ground.num_layers, K)
        if is_whole and (known is None or len(known.scores.seeds) <= len(page.scores.seeds)):
            whole[page.ground.task] = page
    return list(whole.values())


def better_than_chance(pages: Sequence[Page]) -> Verdict:
    """Do the sets of the four strategies beat more of all sets than sets taken at random?

    Args:
        pages: landscapes of one model, one per task, each of all sets of three layers. One that does not tell
            the set of each of the four does not enter.

    Returns:
        holds or does not hold where chance goes beyond the mean percentile of the four, over tasks, in fewer
        than 2.5 % of draws. A draw deals the sets out anew, alike for all tasks and strategies: where several
        take the same set, they do so in every draw.
    """
    known = [(page, chosen) for page in pages if len(chosen := _chosen(page)) == len(STRATEGIES)]
    if not known:
        return Verdict(
            "not_enough_runs", {}, "no whole landscape of three layers of this model tells the four"
        )
    values = np.stack([percentiles(page.scores.means) for page, _ in known])  # [tasks, sets]
    places = np.array(
        [[page.scores.sets.index(chosen[name]) for name in STRATEGIES] for page, chosen in known]
    )
    tasks = np.arange(len(known))[:, None]
    each = dict(zip(STRATEGIES, values[tasks, places].mean(0).tolist(), strict=True))
    mean = fmean(each.values())
    dealt = np.tile(np.arange(values.shape[1]), (DRAWS, 1))
    dealt = np.random.default_rng(SEED).permuted(dealt, axis=1)  # [draws, sets]
    chance = values[tasks, dealt[:, places]].mean((1, 2))
    above, below = (
        (1 + int(side.sum())) / (1 + DRAWS) for side in (chance > mean - 1e-9, chance < mean + 1e-9)
    )
    status: Status = "holds" if above < 0.025 else "does_not_hold" if below < 0.025 else "within_noise"
    percents = ", ".join(f"{name} {printed(value, 0)}" for name, value in each.items())
    return Verdict(
        status,
        each | {"mean percentile": mean, "p": above},
        f"on {_tasks([page for page, _ in known])} the four strategies' sets are better than "
        f"{printed(mean, 0)} % of the other sets of three layers ({percents}), where sets taken at random "
        f"are better than 50 % and do as well as these with p = {above:.2g}",
    )


def follows_the_task(pages: Sequence[Page]) -> Verdict:
    """Do two tasks order the sets less alike than two seeds of one task do?

    Args:
        pages: landscapes of one model, one per task, each of all sets of three layers. One of a single seed
            does not enter.

    Returns:
        what the 95 % interval, over sets drawn anew, says of the difference: the rank correlation of two
        seeds of a task (the geometric mean of two tasks'), less that of seeds of the two tasks, over all
        pairs of tasks. Tasks whose own seeds do not agree say nothing.
    """
    known = [page for page in pages if len(page.scores.seeds) > 1]
    nothing = Verdict("not_enough_runs", {}, "fewer than two tasks have a whole landscape whose seeds agree")
    if len(known) < 2:
        return nothing
    ranks = [percentiles(page.scores.values) for page in known]
    seeds = [of.shape[1] for of in ranks]
    together, number = np.hstack(ranks), len(ranks[0])
    within, between = (float(side[0]) for side in _agreement(together[None], seeds))
    drawn = np.random.default_rng(SEED).integers(number, size=(DRAWS, number))
    sides = _agreement(together[drawn], seeds)
    if np.isnan(within) or np.isnan(sides[0]).mean() > 0.5:
        return nothing
    low, high = map(float, np.nanpercentile(sides[0] - sides[1], [2.5, 97.5]))
    status: Status = "holds" if low > 0 else "does_not_hold" if high < ALIKE else "within_noise"
    found = {"within a task": within, "between tasks": between, "low": low, "high": high}
    return Verdict(
        status,
        found,
        f"on {_tasks(known)} two seeds of a task order the sets of three layers alike by "
        f"{printed(within, 2)} (Spearman), seeds of two tasks by {printed(between, 2)}: a difference of "
        f"{printed(within - between, 2, '+')} [{printed(low, 2, '+')}, {printed(high, 2, '+')}]",
    )


def _agreement(ranks: Array, seeds: Sequence[int]) -> tuple[Array, Array]:
    """Return the correlation of seeds within tasks and between them, over pairs of tasks: [draws] each.

    Args:
        ranks: [draws, sets, seeds of all tasks].
        seeds: how many each task has.
    """
    centred = ranks - ranks.mean(1, keepdims=True)
    spread = np.sqrt((centred**2).sum(1))
    with np.errstate(invalid="ignore"):  # of equal scores alone there is no order
        agree = np.nan_to_num(
            np.einsum("dsi,dsj->dij", centred, centred) / (spread[:, :, None] * spread[:, None])
        )
    ends = np.cumsum(seeds)
    parts = [slice(end - number, end) for end, number in zip(ends, seeds, strict=True)]
    own = []
    for part, number in zip(parts, seeds, strict=True):
        one, other = np.triu_indices(number, 1)
        own.append(agree[:, part, part][:, one, other].mean(1))
    pairs = list(combinations(range(len(seeds)), 2))
    within = np.array([np.sqrt(np.maximum(own[one], 0) * np.maximum(own[other], 0)) for one, other in pairs])
    between = np.array([agree[:, parts[one], parts[other]].mean((1, 2)) for one, other in pairs])
    says = np.where(within > 0, 1.0, np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw in which no pair says anything is nan
        return np.nanmean(within * says, 0), np.nanmean(between * says, 0)


def _chosen(page: Page) -> dict[str, tuple[int, ...]]:
    """Return the set of each of the paper's strategies whose scores are known."""
    return {rule.name: rule.sets[0] for rule, _ in page.rules if rule.name in STRATEGIES and rule.sets}


def _tasks(pages: Sequence[Page]) -> str:
    return listed([choice_title("task", page.ground.task) for page in pages])
