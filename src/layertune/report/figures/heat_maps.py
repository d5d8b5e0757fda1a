"""Figures 2 and 3: per task the similarity of every two layers beside the score of each (§5.5)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from layertune.config.compose import group_choice
from layertune.report.figures import style
from layertune.report.figures.scores import ModelScores, TaskScores
from layertune.report.figures.similarity import Mark, draw_matrix, draw_scores, off_diagonal
from layertune.report.spec import Cell, Row, TableSpec
from layertune.selection import SELECTORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STRATEGIES = {"high_k": Mark(style.BLUE, "^"), "low_k": Mark(style.VERMILION, "v")}


def chosen_layers(method: str, values: tuple[float, ...]) -> tuple[int, ...]:
    """Return the layers that a method of selection takes, with the k of its file, given the scores [L]."""
    import random

    file = group_choice("method", method)
    k = min(int(file["k"]), len(values) - 1)
    return SELECTORS[str(file["selector"])](len(values), k, values, random.Random(0))


def heat_maps(spec: TableSpec, known: Mapping[str, ModelScores]) -> Figure:
    """Return the figure: one row of panels per row of the specification, gaps named.

    Colours and score axes are shared, so that tasks compare.

    Args:
        spec: of Figure 2 or 3.
        known: the scores of each model that it names.
    """
    cells = [spec.cell(row.key, spec.columns[0].key) for row in spec.rows]
    found = [next(iter(known[cell.row.model].by_task.get(task_of(cell.row), ())), None) for cell in cells]
    with style.print_style():
        figure = style.new_figure(style.WIDTH, 0.5 + sum(2.5 if one else 0.8 for one in found))
        heights = [2.5 if one else 0.8 for one in found]
        panels = figure.subplots(len(cells), 2, height_ratios=heights, width_ratios=[1, 1.1], squeeze=False)
        limits = _limits([one for one in found if one is not None])
        for cell, one, row in zip(cells, found, panels, strict=True):
            if one is None:
                _missing(row[0], row[1], cell)
            else:
                _row(figure, row[0], row[1], one, cell, limits)
        _share([row[1] for one, row in zip(found, panels, strict=True) if one is not None])
        figure.suptitle(f"{spec.title}: {spec.caption}", wrap=True)
        style.caption(figure, _sentences(found, known))
    return figure


def task_of(row: Row) -> str:
    """Return the task that a row names."""
    return next(item.removeprefix("task=") for item in row.overrides if item.startswith("task="))


def _limits(found: list[TaskScores]) -> tuple[float, float] | None:
    """Return the least and the greatest similarity of any two layers of any panel."""
    values = [
        value
        for one in found
        for row in off_diagonal(one.read().matrix or ())
        for value in row
        if math.isfinite(value)
    ]
    return (min(values), max(values)) if values else None


def _row(
    figure: Figure,
    grid: Axes,
    points: Axes,
    one: TaskScores,
    cell: Cell,
    limits: tuple[float, float] | None,
) -> None:
    scores = one.read()
    title = f"{one.title}, {group_choice('model', cell.row.model)['title']}"
    if scores.matrix is None:
        style.say(grid, "the record holds no matrix")
    else:
        image = draw_matrix(grid, scores.matrix, limits)
        grid.set_xticks(style.layer_ticks(len(scores.matrix), most=8))
        figure.colorbar(image, ax=grid, label="mean cosine similarity", fraction=0.046, pad=0.03)
    grid.set_title(title, loc="left")
    marks = {layer: mark for name, mark in STRATEGIES.items() for layer in chosen_layers(name, one.values)}
    draw_scores(points, scores, marks)
    points.set_xlabel("score: mean cosine similarity to the other layers")
    points.set_title(f"{one.sample}; mean ± std", loc="left")


def _share(panels: list[Axes]) -> None:
    """Give the score panels one range."""
    low = min((axes.get_xlim()[0] for axes in panels), default=0.0)
    high = max((axes.get_xlim()[1] for axes in panels), default=1.0)
    for axes in panels:
        axes.set_xlim(low, high)


def _missing(left: Axes, right: Axes, cell: Cell) -> None:
    style.say(left, f"{cell.row.title}, {cell.row.model}: no record holds\nthe scores of its layers")
    style.say(right, "to fill:\n" + textwrap.fill(_command(cell), 44))


def _command(cell: Cell) -> str:
    """Return the command that scores the layers; what training alone needs is left out."""
    words = [w for w in cell.overrides[0] if not w.startswith(("train", "protocol=paper"))]
    return " ".join(["python run.py", *words])


def _sentences(found: list[TaskScores | None], known: Mapping[str, ModelScores]) -> list[str]:
    there = [one for one in found if one is not None]
    lines = [f"Scores of {len(there)} of {len(found)} tasks recorded."]
    if there:
        lines[0] += " Blue ▲: the layers of high_k, vermilion ▼: of low_k; the diagonal is 1 by definition."
        if any(one.examples < one.total for one in there):
            lines.append("The texts scored were drawn once from the training texts, with seed 0.")
    if any(one.data_status != "official" for one in there):
        others = ", ".join(
            f"{one.title.removesuffix(' ‡')} {one.data_status}"
            for one in there
            if one.data_status != "official"
        )
        lines.append(f"‡ not the official rows: {others}.")
    return lines + [note for model in known.values() for note in model.left_out]
