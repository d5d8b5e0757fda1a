"""Does the score read the task? Scores of the texts beside those without their words (`task.control`)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from layertune.report.choice import CONTROLS, ChoiceJudged, told
from layertune.report.figures import style
from layertune.report.figures.scores import ModelScores, TaskScores, scored_tasks
from layertune.report.figures.similarity import Mark
from layertune.report.spec import model_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = {
    "unk": Mark(style.VERMILION, "v"),
    "random": Mark(style.BLUE, "^"),
    "other": Mark(style.GREEN, "s"),
}


def controls_figure(known: ModelScores, controls: Mapping[str, ModelScores], choice: ChoiceJudged) -> Figure:
    """Return the figure: the scores over the layers, and how far their orders agree.

    Args:
        known: scores of the texts.
        controls: control -> scores of what stands in their place.
        choice: what `judge_choice` says of them; it has a control.
    """
    tasks = scored_tasks(known.model)
    with style.print_style():
        figure = style.new_figure(style.WIDTH, 4.2)
        profile, strip = figure.subplots(1, 2, width_ratios=[1.25, 1.0])
        _profiles(
            profile, known.first(tasks), {name: controls[name].first(tasks) for name in choice.controls}
        )
        _strip(strip, choice)
        figure.suptitle(
            f"Scores of {model_title(known.model)} with and without the words of {len(choice.tasks)} tasks"
        )
        reason = choice.verdict.reason
        style.caption(
            figure,
            [
                f"{reason[0].upper()}{reason[1:]}.",
                *(f"{line[0].upper()}{line[1:]}." for line in told(choice)),
            ],
        )
    return figure


def _profiles(axes: Axes, own: Sequence[TaskScores], controls: Mapping[str, Sequence[TaskScores]]) -> None:
    layers = range(1, len(own[0].values) + 1)
    for one in own:
        axes.plot(layers, one.values, color="0.6", linewidth=0.7)
    axes.plot([], [], color="0.6", linewidth=0.9, label="the texts, a line a task")
    for name, found in controls.items():
        for one in found:
            axes.plot(layers, one.values, color=MARKS[name].colour, linewidth=0.6, alpha=0.8)
        axes.plot([], [], color=MARKS[name].colour, linewidth=0.9, label=CONTROLS[name])
    axes.set(
        xlabel="layer", ylabel="score (mean cosine similarity)", xticks=style.layer_ticks(len(layers), 6)
    )
    axes.legend(loc="lower left", frameon=False, handlelength=1.2)
    axes.set_title("scores")
    style.bare(axes)


def _strip(axes: Axes, choice: ChoiceJudged) -> None:
    """Draw the correlation of each task's order with a second sample's and with those of the controls."""
    columns = [("a second\nsample", choice.samples, Mark(style.BLACK, "o"))]
    columns += [
        (textwrap.fill(CONTROLS[name], 9), found, MARKS[name]) for name, found in choice.controls.items()
    ]
    for place, (_, found, mark) in enumerate(columns):
        if found is None:
            continue
        spread = [((n * 7) % 11 - 5) * 0.03 for n in range(len(found.own))]  # fixed: no random jitter
        x = [place + offset for offset in spread]
        axes.plot(
            x, sorted(found.own), mark.marker, color=mark.colour, markersize=3.5, alpha=0.8, linestyle=""
        )
        axes.plot([place - 0.3, place + 0.3], [found.others] * 2, color="black", linewidth=1.4)
    axes.plot([], [], color="black", linewidth=1.4, label="mean with other tasks")
    axes.legend(loc="lower left", frameon=False, handlelength=1.2)
    axes.set_xticks(range(len(columns)), [name for name, _, _ in columns])
    axes.set(xlim=(-0.6, len(columns) - 0.4), ylabel="Spearman's rho with the texts' scores")
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.15 * (high - low), high)  # the legend has the lowest part to itself
    axes.set_title("orders of layers, a point a task")
    style.bare(axes)
