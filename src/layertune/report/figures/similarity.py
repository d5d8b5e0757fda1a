"""The similarity of every two layers beside the score of each: of one record, and Figures 2 and 3 (§5.5)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from layertune.config.compose import group_choice
from layertune.errors import ConfigError
from layertune.records.record import OFFICIAL, Record
from layertune.report.figures import style
from layertune.report.layer_scores import ModelScores, TaskScores, chosen_layers, kept_scores
from layertune.report.spec import Cell, Row, TableSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_CHOSEN = style.VERMILION


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


@dataclass(frozen=True)
class Mark:
    """How chosen layers are drawn."""

    colour: str
    marker: str


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


CHOSEN_BY = {"high_k": Mark(style.BLUE, "^"), "low_k": Mark(style.VERMILION, "v")}


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
                _row(figure, grid, points, one, cell, limits)
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


def _row(
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
