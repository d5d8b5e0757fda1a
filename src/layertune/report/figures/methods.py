"""All methods over all tasks: a critical-difference diagram, and probabilities of improvement."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layertune.report.figures import style
from layertune.report.ranking import Improvement, Ranks
from layertune.report.rounding import printed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def ranks_figure(found: Ranks, titles: Mapping[str, str], ours: Sequence[str], title: str) -> Figure:
    """Return the diagram of Demšar (2006): methods on a line of ranks, bars join those that do not differ.

    Args:
        found: the ranks.
        titles: method -> as printed.
        ours: the methods in colour.
        title: of the figure.
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
            _panel(axes, [one for one in found if one.method == method], others)
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


def _panel(axes: Axes, found: Sequence[Improvement], others: Sequence[str]) -> None:
    axes.axvline(0.5, color="0.5", linewidth=0.8)
    for one in found:
        colour = style.BLUE if one.low > 0.5 else style.VERMILION if one.high < 0.5 else style.GREY
        height = others.index(one.other)
        axes.plot([one.low, one.high], [height] * 2, color=colour, linewidth=1.4)
        axes.plot([one.probability], [height], "o", color=colour, markersize=3.5)
    axes.set(xlim=(-0.03, 1.03), ylim=(len(others) - 0.5, -0.5), xticks=[0, 0.5, 1])
    axes.tick_params(axis="y", length=0)
    style.bare(axes, "both")
