"""Which layers each task selects, and what decides: does the choice follow the task, as the paper says
(§5.5)?

`choices_figure`: above, tasks x layers for each strategy; below, the scores of all tasks over the layers, the
rank correlations of every two tasks, and beside those the ones of two samples (or seeds) of one task, which
is how far the scores of a task agree with themselves. `controls_figure`: scores of the texts beside those of
texts without their words (`task.control`).
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from layertune.config.compose import group_choice
from layertune.records.record import OFFICIAL
from layertune.report.choice import CONTROLS, ChoiceJudged, told
from layertune.report.figures import style
from layertune.report.figures.similarity import Mark
from layertune.report.layer_scores import (
    ModelScores,
    OrderAgreement,
    TaskScores,
    agreement,
    between_tasks,
    chosen_layers,
    defined,
    median,
    scored_tasks,
    within_tasks,
)
from layertune.report.paper_claims import STRATEGIES
from layertune.report.spec import choice_title, model_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKS = {
    "unk": Mark(style.VERMILION, "v"),
    "random": Mark(style.BLUE, "^"),
    "other": Mark(style.GREEN, "s"),
}
_ROW = 0.155  # inches of a task's line


def choices_figure(known: ModelScores) -> Figure:
    """Return the figure of one model, tasks without scores left blank and said to be."""
    tasks = scored_tasks(known.model)
    first = known.first(tasks)
    pairs = between_tasks(first)
    samples = within_tasks([known.by_task[one.task] for one in first])
    with style.print_style():
        upper, lower = 0.6 + _ROW * len(tasks), 0.9 + _ROW * max(len(first), 12)
        figure = style.new_figure(style.WIDTH, upper + lower + 1.3)
        places = figure.add_gridspec(2, 1, height_ratios=[upper, lower])
        upper_row = places[0].subgridspec(1, len(STRATEGIES))
        panels = [figure.add_subplot(upper_row[0, place]) for place in range(len(STRATEGIES))]
        for axes, strategy in zip(panels, STRATEGIES, strict=True):
            _grid(axes, tasks, first, strategy)
        titles = {one.task: one.title for one in first}
        names = [titles.get(task, choice_title("task", task)) for task in tasks]
        panels[0].set_yticks(range(len(tasks)), names)
        lower_row = places[1].subgridspec(1, 3, width_ratios=[1.05, 1.9, 1.0])
        profile, matrix, strip = (figure.add_subplot(lower_row[0, place]) for place in range(3))
        _profiles(profile, first, pairs)
        _matrix(figure, matrix, first)
        _strip(strip, pairs, samples)
        k = group_choice("method", "high_k")["k"]
        figure.suptitle(f"Layers that each task selects on {model_title(known.model)}, k = {k}")
        style.caption(figure, _sentences(known, tasks, first, pairs, samples))
    return figure


def _grid(axes: Axes, tasks: Sequence[str], first: Sequence[TaskScores], strategy: str) -> None:
    """Draw tasks x layers; the title says how many tasks choose the commonest set."""
    count = len(first[0].values) if first else 1
    chosen = {one.task: chosen_layers(strategy, one.values) for one in first}
    layers, times = Counter(chosen.values()).most_common(1)[0] if chosen else ((), 0)
    usual = f"\n{' '.join(map(str, layers))} for {times} of {len(first)}" if chosen else ""
    for line, task in enumerate(tasks):
        if task in chosen:
            colour = style.BLUE if chosen[task] == layers else style.VERMILION
            left = [n - 0.5 for n in chosen[task]]
            axes.barh([line] * len(left), 1, left=left, color=colour, height=0.86)
        else:
            grey = style.ink(style.GREY)
            axes.text(0.5 + count / 2, line, "no record", ha="center", va="center", color=grey)
    axes.set_title(strategy + usual)
    axes.set(xlim=(0.5, count + 0.5), ylim=(len(tasks) - 0.5, -0.5), xlabel="layer")
    axes.set_xticks(style.layer_ticks(count, most=6))
    axes.set_xticks([n + 0.5 for n in range(count)], minor=True)
    axes.set_yticks(range(len(tasks)), [""] * len(tasks))
    axes.set_yticks([n + 0.5 for n in range(len(tasks))], minor=True)
    axes.grid(which="minor", color="0.88", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def _unlike(first: Sequence[TaskScores], pairs: Sequence[OrderAgreement]) -> TaskScores | None:
    """Return the task whose order of layers is least like the others', by its median correlation."""
    if len(first) < 3:
        return None
    return min(first, key=lambda one: median([p.spearman for p in pairs if one in (p.one, p.other)]))


def _profiles(axes: Axes, first: Sequence[TaskScores], pairs: Sequence[OrderAgreement]) -> None:
    """Draw the scores of each task over the layers; the least typical task in colour."""
    if not first:
        style.say(axes, "no record holds\nscores")
        return
    layers = _lines(axes, first, "0.55", 0.7)
    axes.plot([], [], color="0.55", linewidth=0.7, label="one task")
    if (odd := _unlike(first, pairs)) is not None:
        axes.plot(layers, odd.values, color=style.VERMILION, linewidth=1.5, label=odd.title)
    _finish_profiles(axes, layers)


def _lines(axes: Axes, found: Sequence[TaskScores], colour: str, width: float) -> range:
    """Draw a line per task over the layers, which are returned."""
    layers = range(1, len(found[0].values) + 1)
    for one in found:
        axes.plot(layers, one.values, color=colour, linewidth=width)
    return layers


def _finish_profiles(axes: Axes, layers: range) -> None:
    axes.legend(loc="lower left", frameon=False, handlelength=1.2)
    axes.set(
        xlabel="layer", ylabel="score (mean cosine similarity)", xticks=style.layer_ticks(len(layers), 6)
    )
    axes.set_title("scores")
    style.bare(axes)


def _matrix(figure: Figure, axes: Axes, first: Sequence[TaskScores]) -> None:
    """Draw the rank correlations of every two tasks, Spearman's below the diagonal, Kendall's above."""
    if len(first) < 2:
        style.say(axes, "fewer than two tasks have scores:\nnothing to correlate")
        return
    rows = [[math.nan] * len(first) for _ in first]
    for i, one in enumerate(first):
        for j, other in enumerate(first[:i]):
            found = agreement(one, other)
            rows[i][j], rows[j][i] = found.spearman, found.kendall
    image = axes.imshow(rows, cmap=style.HEAT, vmin=_floor(value for row in rows for value in row), vmax=1.0)
    names = [one.title.removesuffix(" ‡") for one in first]
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.set_title("rank correlation of two tasks\n(below Spearman, above Kendall)")
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)


def _floor(values: Iterable[float]) -> float:
    """Return the start of a scale of correlations: the twentieth below the least that there is."""
    return min(math.floor(20 * min(defined(values), default=1.0) - 1e-9) / 20, 0.95)


def _column(
    axes: Axes, place: float, values: Sequence[float], mark: Mark, step: float, size: float, alpha: float
) -> None:
    """Draw values side by side, spread the same way every time: no random jitter."""
    x = [place + ((n * 7) % 11 - 5) * step for n in range(len(values))]
    axes.plot(x, sorted(values), mark.marker, color=mark.colour, markersize=size, alpha=alpha, linestyle="")


def _strip(axes: Axes, pairs: Sequence[OrderAgreement], samples: Sequence[OrderAgreement]) -> None:
    """Draw all correlations side by side, with their medians."""
    if not pairs and not samples:
        style.say(axes, "nothing to\ncorrelate")
        return
    columns = [("two\ntasks", pairs), ("samples\nof a task", samples)]
    kinds = {"spearman": (-0.18, Mark(style.BLUE, "o")), "kendall": (0.18, Mark(style.VERMILION, "^"))}
    for place, (_, found) in enumerate(columns):
        for name, (shift, mark) in kinds.items():
            values = [getattr(pair, name) for pair in found]
            _column(axes, place + shift, values, mark, 0.022, 2.6, 0.7)
            if values:
                ends = [place + shift - 0.15, place + shift + 0.15]
                axes.plot(ends, [median(values)] * 2, color="black", lw=1.4)
    for name, (_, mark) in kinds.items():
        label = name.capitalize()
        axes.plot([], [], mark.marker, color=mark.colour, markersize=4, linestyle="", label=label)
    axes.plot([], [], color="black", lw=1.4, label="median")
    axes.legend(loc="lower center", frameon=False, handlelength=1.2)
    axes.set_xticks(range(len(columns)), [f"{name}\n({len(found)} pairs)" for name, found in columns])
    low = _floor(value for pair in (*pairs, *samples) for value in (pair.spearman, pair.kendall))
    # The legend has the lower third to itself; the scale does not start at zero and says so.
    axes.set(xlim=(-0.5, 1.5), ylim=(low - 0.5 * (1 - low), 1 + 0.04 * (1 - low)))
    axes.set_yticks([tick for tick in axes.get_yticks() if low - 1e-9 <= tick <= 1])
    axes.set_title("rank correlation")
    style.bare(axes)


def _sentences(
    known: ModelScores,
    tasks: Sequence[str],
    first: Sequence[TaskScores],
    pairs: Sequence[OrderAgreement],
    samples: Sequence[OrderAgreement],
) -> list[str]:
    lines = [f"{len(first)} of {len(tasks)} tasks have recorded scores. Blue: the commonest set of layers, "]
    lines[0] += "vermilion: another."
    if first:
        lines[0] += f" Training texts scored: {_samples(first)}."
    if _unlike(first, pairs):
        lines[0] += " Among the scores, in vermilion: the task whose order is least like the others'."
    if pairs:
        lines.append(f"Median (least) of two tasks: {_summary(pairs)}.")
    if samples:
        lines[-1] += f" Of two samples or seeds of a task: {_summary(samples)}."
    several = sum(len(one.seeds) > 1 for found in known.by_task.values() for one in found)
    if several:
        lines.append(f"{several} score vectors are recorded with several seeds: the same numbers for each.")
    others = sorted({one.data_status for one in first if one.data_status != OFFICIAL})
    if others:
        lines.append(f"‡ rows other than the official data: {', '.join(others)}.")
    return lines + list(known.left_out)


def _samples(first: Sequence[TaskScores]) -> str:
    """Say how many texts: the commonest number, then the exceptions."""
    (common, times), *_ = Counter(one.examples for one in first).most_common(1)
    others = [f"{one.title.removesuffix(' ‡')} {one.examples:,}" for one in first if one.examples != common]
    return ", ".join([f"{common:,} of each of {times} tasks", *others])


def _summary(found: Sequence[OrderAgreement]) -> str:
    rho, tau = defined(pair.spearman for pair in found), defined(pair.kendall for pair in found)
    if not rho or not tau:
        return "none, as with a constant there is none"
    return f"Spearman {median(rho):.2f} ({min(rho):.2f}), Kendall {median(tau):.2f} ({min(tau):.2f})"


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
        layers = _lines(profile, known.first(tasks), "0.6", 0.7)
        profile.plot([], [], color="0.6", linewidth=0.9, label="the texts, a line a task; means of:")
        for name in choice.controls:
            values = [one.values for one in controls[name].first(tasks)]
            mean, mark = [fmean(of_layer) for of_layer in zip(*values, strict=True)], MARKS[name]
            profile.plot(
                layers, mean, color=mark.colour, marker=mark.marker, markersize=4, label=CONTROLS[name]
            )
        _finish_profiles(profile, layers)
        _control_strip(strip, choice)
        figure.suptitle(
            f"Scores of {model_title(known.model)} with and without the words of {len(choice.tasks)} tasks"
        )
        lines = [choice.verdict.reason, *told(choice)]
        style.caption(figure, [f"{line[0].upper()}{line[1:]}." for line in lines])
    return figure


def _control_strip(axes: Axes, choice: ChoiceJudged) -> None:
    """Draw the correlation of each task's order with a second sample's and with those of the controls."""
    columns = [("a second\nsample", choice.samples, Mark(style.BLACK, "o"))]
    columns += [
        (textwrap.fill(CONTROLS[name], 9), found, MARKS[name]) for name, found in choice.controls.items()
    ]
    for place, (_, found, mark) in enumerate(columns):
        if found is not None:
            _column(axes, place, found.own, mark, 0.03, 3.5, 0.8)
            axes.plot([place - 0.3, place + 0.3], [found.others] * 2, color="black", linewidth=1.4)
    axes.plot([], [], color="black", linewidth=1.4, label="mean with other tasks")
    axes.legend(loc="lower left", frameon=False, handlelength=1.2)
    axes.set_xticks(range(len(columns)), [name for name, _, _ in columns])
    axes.set(xlim=(-0.6, len(columns) - 0.4), ylabel="Spearman's rho with the texts' scores")
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.15 * (high - low), high)  # the legend has the lowest part to itself
    axes.set_title("orders of layers, a point a task")
    style.bare(axes)
