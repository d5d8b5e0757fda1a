"""Figures of layer scores: of one record, Figures 2 and 3, and whether the choice follows the task (§5.5).

`plot_similarity`, `plot_record`: the similarity of every two layers beside the score of each. `heat_maps`:
the same of several tasks. `choices_figure`: above, tasks x layers for each strategy; below, the scores of all
tasks over the layers, the rank correlations of every two tasks, and beside those the ones of two samples (or
seeds) of one task, which is how far the scores of a task agree with themselves. `controls_figure`: scores of
the texts beside those of texts without their words (`task.control`).
"""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from layertune.config.compose import group_choice
from layertune.errors import ConfigError
from layertune.records.record import OFFICIAL, Record
from layertune.report.figures import style
from layertune.report.figures.style import Mark
from layertune.report.layer_scores import (
    CONTROLS,
    ChoiceJudged,
    ModelScores,
    OrderAgreement,
    TaskScores,
    agreement,
    between_tasks,
    chosen_layers,
    control_sentences,
    defined,
    kept_scores,
    median,
    scored_tasks,
    within_tasks,
)
from layertune.report.paper_claims import STRATEGIES
from layertune.report.spec import Cell, Row, TableSpec, choice_title, model_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_CHOSEN = style.VERMILION
CHOSEN_BY = {"high_k": Mark(style.BLUE, "^"), "low_k": Mark(style.VERMILION, "v")}
CONTROL_MARKS = {
    "unk": Mark(style.VERMILION, "v"),
    "random": Mark(style.BLUE, "^"),
    "other": Mark(style.GREEN, "s"),
}
_ROW = 0.155  # inches of a task's line


class Scores(Protocol):
    """What a figure reads of layer scores (a record's `selection`, or what `score_layers` returns)."""

    @property
    def values(self) -> Sequence[float]:
        """One score per layer, [L]."""

    @property
    def std(self) -> Sequence[float]:
        """Their spread, [L]."""

    @property
    def matrix(self) -> Sequence[Sequence[float]] | None:
        """Similarity of each pair of layers, [L][L]."""


def plot_similarity(
    scores: Scores, layers: Sequence[int], path: Path, name: str = "cosine similarity", title: str = ""
) -> Figure:
    """Draw the similarity of every pair of layers and each layer's score; write and return the figure.

    The heat-map is left out where the scorer compares no layers.

    Args:
        scores: one value per layer, their spread, and the [L][L] matrix or None.
        layers: the chosen layers, counted from 1: marked in both panels.
        path: where the picture goes; the ending chooses the format.
        name: what was measured; labels the colour bar and the axis.
        title: above the picture.
    """
    side = min(max(3.2, 0.24 * len(scores.values)), 6.0)
    widths = [1.3, 1.0] if scores.matrix is not None else [1.0]
    with style.print_style():
        figure = style.new_figure(side * sum(widths) + 1.0, side + 0.8)
        panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
        if scores.matrix is not None:
            image = draw_matrix(panels[0], scores.matrix)
            mark_layers(panels[0], layers, xaxis=True)
            figure.colorbar(image, ax=panels[0], label=f"mean {name}", fraction=0.046, pad=0.03)
        draw_scores(panels[-1], scores, dict.fromkeys(layers, Mark(_CHOSEN, "o")))
        mark_layers(panels[-1], layers)
        panels[-1].set_xlabel(f"score: {name} to the others\n(mean ± std over examples)")
        panels[-1].set_title("chosen: " + ", ".join(map(str, layers)), color=style.ink(_CHOSEN))
        if title:
            figure.suptitle(title)
        style.save(figure, path)
    return figure


def plot_record(record: Record, path: Path) -> None:
    """Draw the scores a record holds.

    Raises:
        ConfigError: the record's method scored no layers.
    """
    selection = record.selection
    if (kept := kept_scores(record)) is None or selection is None:
        raise ConfigError(
            f"{record.run_id} holds no layer scores: its method chose its layers without scoring."
        )
    title = f"{record.spec.model} on {record.spec.task}: {selection.examples:,} texts, {record.spec.method}"
    plot_similarity(kept, selection.layers or (), path, f"{selection.scorer} similarity", title)


def off_diagonal(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return a matrix with nan on its diagonal, which is one (or zero) by definition and needs no colour."""
    return [[math.nan if i == j else value for j, value in enumerate(row)] for i, row in enumerate(matrix)]


def draw_matrix(
    axes: Axes, matrix: Sequence[Sequence[float]], limits: tuple[float, float] | None = None
) -> AxesImage:
    """Draw an [L][L] matrix, layer 1 at the lower left; `limits` are those of the colours."""
    count = len(matrix)
    low, high = limits or (None, None)
    image: AxesImage = axes.imshow(
        off_diagonal(matrix),
        cmap=style.HEAT,
        origin="lower",
        extent=(0.5, count + 0.5, 0.5, count + 0.5),
        vmin=low,
        vmax=high,
    )
    ticks = style.layer_ticks(count)
    axes.set(xlabel="layer", ylabel="layer", xticks=ticks, yticks=ticks)
    return image


def draw_scores(axes: Axes, scores: Scores, marks: Mapping[int, Mark]) -> None:
    """Draw one point per layer with its spread, layer 1 at the bottom; `marks` by layer number."""
    other = Mark(style.GREY, "o")
    for number, (value, std) in enumerate(zip(scores.values, scores.std, strict=True), start=1):
        mark = marks.get(number, other)
        drawn: dict[str, Any] = {"fmt": mark.marker, "color": mark.colour, "markersize": 5}
        axes.errorbar(value, number, xerr=std, elinewidth=1, capsize=2, **drawn)
    count = len(scores.values)
    axes.set(yticks=style.layer_ticks(count), ylabel="layer", ylim=(0.5, count + 0.5))
    style.bare(axes)


def mark_layers(axes: Axes, layers: Sequence[int], xaxis: bool = False) -> None:
    """Print the numbers of the chosen layers bold and in colour."""
    labels = [*axes.get_yticklabels(), *(axes.get_xticklabels() if xaxis else [])]
    for label in labels:
        if label.get_text() in {str(layer) for layer in layers}:
            label.set(color=style.ink(_CHOSEN), fontweight="bold")


def heat_maps(spec: TableSpec, known: Mapping[str, ModelScores]) -> Figure:
    """Return Figure 2 or 3, given the scores of each model that it names: a row per task, gaps named.

    Colours and score axes are shared, so that tasks compare.
    """
    cells = [spec.cell(row.key, spec.columns[0].key) for row in spec.rows]
    found = [next(iter(known[cell.row.model].by_task.get(task_of(cell.row), ())), None) for cell in cells]
    there = [one for one in found if one is not None]
    similar = [
        value
        for one in there
        for row in off_diagonal(one.read().matrix or ())
        for value in row
        if math.isfinite(value)
    ]
    limits = (min(similar), max(similar)) if similar else None
    with style.print_style():
        heights = [2.5 if one else 0.8 for one in found]
        figure = style.new_figure(style.WIDTH, 0.5 + sum(heights))
        panels = figure.subplots(len(cells), 2, height_ratios=heights, width_ratios=[1, 1.1], squeeze=False)
        for cell, one, (grid, points) in zip(cells, found, panels, strict=True):
            if one is not None:
                _heat_map_row(figure, grid, points, one, cell, limits)
                continue
            style.say(grid, f"{cell.row.title}, {cell.row.model}: no record holds\nthe scores of its layers")
            style.say(points, "to fill:\n" + textwrap.fill(_command(cell), 44))
        drawn = [points for one, (_, points) in zip(found, panels, strict=True) if one is not None]
        low = min((axes.get_xlim()[0] for axes in drawn), default=0.0)
        high = max((axes.get_xlim()[1] for axes in drawn), default=1.0)
        for axes in drawn:
            axes.set_xlim(low, high)
        figure.suptitle(f"{spec.title}: {spec.caption}", wrap=True)
        lines = [f"Scores of {len(there)} of {len(found)} tasks recorded."]
        if there:
            lines[0] += (
                " Blue ▲: the layers of high_k, vermilion ▼: of low_k; the diagonal is 1 by definition."
            )
        if any(one.examples < one.total for one in there):
            lines.append("The texts scored were drawn once from the training texts, with seed 0.")
        others = [
            f"{one.title.removesuffix(' ‡')} {one.data_status}"
            for one in there
            if one.data_status != OFFICIAL
        ]
        if others:
            lines.append(f"‡ not the official rows: {', '.join(others)}.")
        style.caption(figure, [*lines, *(note for model in known.values() for note in model.left_out)])
    return figure


def task_of(row: Row) -> str:
    """Return the task that a row names."""
    return next(item.removeprefix("task=") for item in row.overrides if item.startswith("task="))


def _heat_map_row(
    figure: Figure, grid: Axes, points: Axes, one: TaskScores, cell: Cell, limits: tuple[float, float] | None
) -> None:
    scores = one.read()
    if scores.matrix is None:
        style.say(grid, "the record holds no matrix")
    else:
        image = draw_matrix(grid, scores.matrix, limits)
        grid.set_xticks(style.layer_ticks(len(scores.matrix), most=8))
        figure.colorbar(image, ax=grid, label="mean cosine similarity", fraction=0.046, pad=0.03)
    grid.set_title(f"{one.title}, {group_choice('model', cell.row.model)['title']}", loc="left")
    marks = {layer: mark for name, mark in CHOSEN_BY.items() for layer in chosen_layers(name, one.values)}
    draw_scores(points, scores, marks)
    points.set_xlabel("score: mean cosine similarity to the other layers")
    points.set_title(f"{one.sample}; mean ± std", loc="left")


def _command(cell: Cell) -> str:
    """Return the command that scores the layers; what training alone needs is left out."""
    words = [w for w in cell.overrides[0] if not w.startswith(("train", "protocol=paper"))]
    return " ".join(["python run.py", *words])


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
            mean, mark = [fmean(of_layer) for of_layer in zip(*values, strict=True)], CONTROL_MARKS[name]
            profile.plot(
                layers, mean, color=mark.colour, marker=mark.marker, markersize=4, label=CONTROLS[name]
            )
        _finish_profiles(profile, layers)
        _control_strip(strip, choice)
        figure.suptitle(
            f"Scores of {model_title(known.model)} with and without the words of {len(choice.tasks)} tasks"
        )
        lines = [choice.verdict.reason, *control_sentences(choice)]
        style.caption(figure, [f"{line[0].upper()}{line[1:]}." for line in lines])
    return figure


def _control_strip(axes: Axes, choice: ChoiceJudged) -> None:
    """Draw the correlation of each task's order with a second sample's and with those of the controls."""
    columns = [("a second\nsample", choice.samples, Mark(style.BLACK, "o"))]
    columns += [
        (textwrap.fill(CONTROLS[name], 9), found, CONTROL_MARKS[name])
        for name, found in choice.controls.items()
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
