"""Many methods on many tasks: average ranks with their critical difference, and probabilities of improvement.

Ranks as Demšar (2006) compares classifiers over data sets: Friedman's test, then Nemenyi's distance. The
probability of improvement as Agarwal et al. (2021, rliable): that a run of one method beats a run of another
on the same task, the mean over tasks, with an interval from runs drawn anew within each task.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layertune.report.figures import style
from layertune.report.rounding import printed
from layertune.report.values import TableValues

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALPHA = 0.05
DRAWS, SEED = 2000, 0  # of the bootstrap
Runs = Mapping[tuple[str, str], Sequence[float]]  # method, task -> runs; more is better


@dataclass(frozen=True)
class Ranks:
    """Methods in order of their average rank over tasks; 1 is the best."""

    methods: tuple[str, ...]
    average: tuple[float, ...]
    tasks: tuple[str, ...]
    left_out: tuple[str, ...]  # methods and tasks without which the block would have gaps
    p: float  # Friedman's, that all methods are alike
    critical: float  # Nemenyi's: average ranks further apart than this differ

    def groups(self) -> list[tuple[int, int]]:
        """Return the longest stretches of methods (first and last place) that do not differ."""
        found: list[tuple[int, int]] = []
        for first, rank in enumerate(self.average):
            last = max(place for place, other in enumerate(self.average) if other - rank <= self.critical)
            if last > first and not any(last <= end for _, end in found):
                found.append((first, last))
        return found


@dataclass(frozen=True)
class Improvement:
    """How likely a run of one method beats one of another on the same task."""

    method: str
    other: str
    tasks: int
    probability: float
    low: float  # of the 95 % interval
    high: float


def runs_of(tables: Iterable[TableValues]) -> dict[tuple[str, str], list[float]]:
    """Return the runs of finished cells of a metric, without those that learned nothing or of mixed data."""
    found: dict[tuple[str, str], list[float]] = {}
    for table in tables:
        for value in table.cells.values():
            row, column = value.cell.row, value.cell.column
            plain = column.measure == "metric" and not column.mean_of and not row.of
            if plain and value.state == "done" and value.has_learned and column.key not in table.column_marks:
                found[row.name, column.task] = list(value.values.values())
    return found


def ranks(runs: Runs) -> Ranks | None:
    """Return the average ranks of methods over the tasks that all have; None for fewer than three of either.

    What leaves most gaps is left out first, a method before a task.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    methods, tasks = (list(dict.fromkeys(key[place] for key in runs)) for place in (0, 1))
    left_out: list[str] = []
    while gaps := [(m, t) for m in methods for t in tasks if (m, t) not in runs]:
        share = {m: sum(gap[0] == m for gap in gaps) / len(tasks) for m in methods}
        share |= {t: sum(gap[1] == t for gap in gaps) / len(methods) for t in tasks}
        worst = max(share, key=lambda name: share[name])
        left_out.append(worst)
        (methods if worst in methods else tasks).remove(worst)
    if len(methods) < 3 or len(tasks) < 3:
        return None
    means = [[sum(runs[m, t]) / len(runs[m, t]) for m in methods] for t in tasks]
    of_tasks = [rankdata([-round(mean, 9) for mean in own]) for own in means]
    average = {m: float(sum(own[place] for own in of_tasks)) / len(tasks) for place, m in enumerate(methods)}
    ordered = sorted(methods, key=lambda m: average[m])
    k, n = len(methods), len(tasks)
    q = float(studentized_range.ppf(1 - ALPHA, k, math.inf)) / math.sqrt(2)
    return Ranks(
        methods=tuple(ordered),
        average=tuple(average[m] for m in ordered),
        tasks=tuple(tasks),
        left_out=tuple(left_out),
        p=float(friedmanchisquare(*zip(*means, strict=True)).pvalue),
        critical=q * math.sqrt(k * (k + 1) / (6 * n)),
    )


def improvement(runs: Runs, method: str, other: str) -> Improvement | None:
    """Return how likely one method beats another; None where they share no task."""
    import numpy as np

    tasks = [task for name, task in runs if name == method and (other, task) in runs]
    if not tasks:
        return None
    rng = np.random.default_rng(SEED)
    point, drawn = [], []
    for task in tasks:
        mine, theirs = np.asarray(runs[method, task]), np.asarray(runs[other, task])
        lead = mine[:, None] - theirs[None, :]
        wins = (lead > 1e-9) + 0.5 * (np.abs(lead) <= 1e-9)  # [runs of one, runs of the other]
        point.append(wins.mean())
        rows = rng.integers(len(mine), size=(DRAWS, len(mine), 1))
        columns = rng.integers(len(theirs), size=(DRAWS, 1, len(theirs)))
        drawn.append(wins[rows, columns].mean(axis=(1, 2)))
    low, high = np.quantile(np.mean(drawn, axis=0), [ALPHA / 2, 1 - ALPHA / 2])
    return Improvement(method, other, len(tasks), float(np.mean(point)), float(low), float(high))


def ranks_figure(found: Ranks, titles: Mapping[str, str], ours: Sequence[str], title: str) -> Figure:
    """Return the diagram of Demšar (2006): methods on a line of ranks, bars join those that do not differ.

    `titles` are the methods as printed, `ours` those in colour.
    """
    count = len(found.methods)
    left = (count + 1) // 2
    with style.print_style():
        figure = style.new_figure(style.WIDTH, 1.9 + 0.17 * (left + len(found.groups())))
        axes = figure.subplots()
        groups = found.groups()
        depth = len(groups) * 0.8 + left + 0.8
        axes.set(xlim=(1 - 0.45 * count, count + 0.45 * count), ylim=(depth, -2.4))
        axes.axis("off")
        axes.plot([1, count], [0, 0], color="black", linewidth=1)
        for tick in range(1, count + 1):
            axes.plot([tick, tick], [0, -0.25], color="black", linewidth=0.8)
            axes.text(tick, -0.4, str(tick), ha="center", va="bottom")
        axes.plot([1, 1 + found.critical], [-1.7, -1.7], color="black", linewidth=1.5)
        axes.text(1, -1.85, f"critical difference {printed(found.critical, 2)}", ha="left", va="bottom")
        for line, (start, stop) in enumerate(groups, start=1):
            ends = [found.average[start] - 0.08, found.average[stop] + 0.08]
            axes.plot(ends, [line * 0.8] * 2, color="0.35", linewidth=3, solid_capstyle="round")
        below = len(groups) * 0.8 + 1.1
        for place, (method, rank) in enumerate(zip(found.methods, found.average, strict=True)):
            on_left = place < left
            height = below + (place if on_left else count - 1 - place)
            end = 1 - 0.03 * count if on_left else 1.03 * count
            colour = style.VERMILION if method in ours else style.BLACK
            axes.plot([rank, rank, end], [0, height, height], color=colour, linewidth=0.8)
            words = (titles.get(method, method), printed(rank, 1))
            text = "  ".join(words if on_left else reversed(words))
            axes.text(
                end,
                height,
                f" {text} ",
                ha="right" if on_left else "left",
                va="center",
                color=style.ink(colour),
            )
        figure.suptitle(title)
        lines = [
            f"Average ranks of {count} methods over {len(found.tasks)} tasks (means over seeds), 1 is the "
            f"best. Bars join methods that do not differ (Nemenyi, 5 %); Friedman p {found.p:.2g}. "
            "Vermilion: layers by cosine score."
        ]
        if found.left_out:
            lines.append(f"Left out, for what they lack: {', '.join(found.left_out)}.")
        style.caption(figure, lines)
    return figure


def improvement_figure(found: Sequence[Improvement], titles: Mapping[str, str], title: str) -> Figure:
    """Return a panel per method: the probability that it improves on each other one, with 95 % intervals."""
    panels = list(dict.fromkeys(one.method for one in found))
    others = list(dict.fromkeys(one.other for one in found))
    with style.print_style():
        figure = style.new_figure(style.WIDTH, 1.5 + 0.19 * len(others))
        for axes, method in zip(
            figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
        ):
            _improvement_panel(axes, [one for one in found if one.method == method], others)
            axes.set_title(textwrap.fill(titles.get(method, method), 14))
            axes.set_yticks(range(len(others)), [titles.get(other, other) for other in others])
        figure.suptitle(title)
        counts = sorted({one.tasks for one in found})
        tasks = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        style.caption(
            figure,
            [
                "Probability that a run of the method above beats a run of the method on the left on the "
                f"same task (mean over the {tasks} tasks that both have), with 95 % intervals from runs "
                "drawn anew within each task. Colour: the interval does not include one half."
            ],
        )
    return figure


def _improvement_panel(axes: Axes, found: Sequence[Improvement], others: Sequence[str]) -> None:
    axes.axvline(0.5, color="0.5", linewidth=0.8)
    for one in found:
        colour = style.BLUE if one.low > 0.5 else style.VERMILION if one.high < 0.5 else style.GREY
        height = others.index(one.other)
        axes.plot([one.low, one.high], [height] * 2, color=colour, linewidth=1.4)
        axes.plot([one.probability], [height], "o", color=colour, markersize=3.5)
    axes.set(xlim=(-0.03, 1.03), ylim=(len(others) - 0.5, -0.5), xticks=[0, 0.5, 1])
    axes.tick_params(axis="y", length=0)
    style.bare(axes, "both")
