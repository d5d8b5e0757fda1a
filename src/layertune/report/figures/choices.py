"""Which layers each task selects: whether the choice follows the task, as the paper says (§5.5).

Above, tasks x layers for each strategy. Below, what decides: the scores of all tasks over the layers; the
rank correlations of every two tasks; and beside those the ones of two samples (or seeds) of one task, which
is how far the scores of a task agree with themselves.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from layertune.config.compose import group_choice
from layertune.records.record import OFFICIAL
from layertune.report.figures import style
from layertune.report.figures.heat_maps import chosen_layers
from layertune.report.figures.ranks import Agreement, agreement, between_tasks, defined, median, within_tasks
from layertune.report.figures.scores import ModelScores, TaskScores, scored_tasks
from layertune.report.spec import choice_title, model_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRATEGIES = ("high_k", "low_k", "block_high", "block_low")
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
        _task_names(panels[0], tasks, first)
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
    common = Counter(chosen.values()).most_common(1)
    for line, task in enumerate(tasks):
        layers = chosen.get(task, ())
        usual = bool(common) and layers == common[0][0]
        colour = style.BLUE if usual else style.VERMILION
        axes.barh([line] * len(layers), 1, left=[n - 0.5 for n in layers], color=colour, height=0.86)
        if task not in chosen:
            axes.text(
                0.5 + count / 2, line, "no record", ha="center", va="center", color=style.ink(style.GREY)
            )
    if common:
        layers, times = common[0]
        title = f"{strategy}\n{' '.join(map(str, layers))} for {times} of {len(first)}"
    else:
        title = strategy
    axes.set_title(title)
    axes.set(xlim=(0.5, count + 0.5), ylim=(len(tasks) - 0.5, -0.5), xlabel="layer")
    axes.set_xticks(style.layer_ticks(count, most=6))
    axes.set_xticks([n + 0.5 for n in range(count)], minor=True)
    axes.set_yticks(range(len(tasks)), [""] * len(tasks))
    axes.set_yticks([n + 0.5 for n in range(len(tasks))], minor=True)
    axes.grid(which="minor", color="0.88", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def _task_names(axes: Axes, tasks: Sequence[str], first: Sequence[TaskScores]) -> None:
    titles = {one.task: one.title for one in first}
    names = [titles.get(task, choice_title("task", task)) for task in tasks]
    axes.set_yticks(range(len(tasks)), names)


def _unlike(first: Sequence[TaskScores], pairs: Sequence[Agreement]) -> TaskScores | None:
    """Return the task whose order of layers is least like the others', by its median correlation."""
    if len(first) < 3:
        return None
    return min(first, key=lambda one: median([p.spearman for p in pairs if one in (p.one, p.other)]))


def _profiles(axes: Axes, first: Sequence[TaskScores], pairs: Sequence[Agreement]) -> None:
    """Draw the scores of each task over the layers; the least typical task in colour."""
    if not first:
        style.say(axes, "no record holds\nscores")
        return
    odd = _unlike(first, pairs)
    layers = range(1, len(first[0].values) + 1)
    for one in first:
        axes.plot(layers, one.values, color="0.55", linewidth=0.7)
    axes.plot([], [], color="0.55", linewidth=0.7, label="one task")
    if odd is not None:
        axes.plot(layers, odd.values, color=style.VERMILION, linewidth=1.5, label=odd.title)
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
    rows = []
    for i, one in enumerate(first):
        found = [agreement(one, other) for other in first]
        rows.append(
            [
                float("nan") if i == j else (pair.spearman if j < i else pair.kendall)
                for j, pair in enumerate(found)
            ]
        )
    low = _floor(value for row in rows for value in row)
    image = axes.imshow(rows, cmap=style.HEAT, vmin=low, vmax=1.0)
    names = [one.title.removesuffix(" ‡") for one in first]
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.set_title("rank correlation of two tasks\n(below Spearman, above Kendall)")
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)


def _floor(values: Iterable[float]) -> float:
    """Return the start of a scale of correlations: the twentieth below the least that there is."""
    return min(math.floor(20 * min(defined(values), default=1.0) - 1e-9) / 20, 0.95)


def _strip(axes: Axes, pairs: Sequence[Agreement], samples: Sequence[Agreement]) -> None:
    """Draw all correlations side by side, with their medians."""
    if not pairs and not samples:
        style.say(axes, "nothing to\ncorrelate")
        return
    columns = [("two\ntasks", pairs), ("two samples\nof a task", samples)]
    for place, (_, found) in enumerate(columns):
        for shift, name, colour, marker in (
            (-0.18, "spearman", style.BLUE, "o"),
            (0.18, "kendall", style.VERMILION, "^"),
        ):
            values = sorted(getattr(pair, name) for pair in found)
            spread = [((n * 7) % 11 - 5) * 0.022 for n in range(len(values))]  # fixed: no random jitter
            x = [place + shift + offset for offset in spread]
            axes.plot(x, values, marker, color=colour, markersize=2.6, alpha=0.7, linestyle="")
            if values:
                middle = median(values)
                axes.plot([place + shift - 0.15, place + shift + 0.15], [middle] * 2, color="black", lw=1.4)
    for label, colour, marker in (("Spearman", style.BLUE, "o"), ("Kendall", style.VERMILION, "^")):
        axes.plot([], [], marker, color=colour, markersize=4, linestyle="", label=label)
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
    pairs: Sequence[Agreement],
    samples: Sequence[Agreement],
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
    several = [one for found in known.by_task.values() for one in found if len(one.seeds) > 1]
    if several:
        lines.append(
            f"{len(several)} score vectors are recorded with several seeds: the same numbers for each."
        )
    others = sorted({one.data_status for one in first if one.data_status != OFFICIAL})
    if others:
        lines.append(f"‡ rows other than the official data: {', '.join(others)}.")
    return lines + list(known.left_out)


def _samples(first: Sequence[TaskScores]) -> str:
    """Say how many texts: the commonest number, then the exceptions."""
    (common, times), *_ = Counter(one.examples for one in first).most_common(1)
    others = [f"{one.title.removesuffix(' ‡')} {one.examples:,}" for one in first if one.examples != common]
    return ", ".join([f"{common:,} of each of {times} tasks", *others])


def _summary(found: Sequence[Agreement]) -> str:
    rho, tau = defined(pair.spearman for pair in found), defined(pair.kendall for pair in found)
    if not rho or not tau:
        return "none, as with a constant there is none"
    return f"Spearman {median(rho):.2f} ({min(rho):.2f}), Kendall {median(tau):.2f} ({min(tau):.2f})"
