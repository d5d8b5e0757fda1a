"""All sets by their lowest layer, which decides what a step costs, against what they reach; rules by name."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from layertune.report.figures import style
from layertune.report.figures.labels import Label, label_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from layertune.landscape.page import Page

_WIDTH = 0.35  # half of what the sets of one lowest layer take, in layers
_NAMED = 3  # rules of one set that are named


def landscape_figure(page: Page) -> Figure:
    """Return the figure of one landscape."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = style.new_figure(style.WIDTH, 4.4)
    FigureCanvasAgg(figure)  # which measures the names
    axes = figure.subplots()
    sets, means, seeds = page.scores.sets, 100 * page.scores.means, page.scores.seeds
    places = _places(sets)
    names: dict[tuple[int, ...], list[str]] = {}
    for rule, at in page.rules:
        if at is not None and at.layers:
            names.setdefault(at.layers, []).append(rule.name)
    marked = [layers in names for layers in sets]
    axes.scatter(places, means, s=12, color=style.GREY, linewidths=0, zorder=2)
    axes.scatter(places[marked], means[marked], s=26, color=style.VERMILION, zorder=3)
    style.bare(axes)
    axes.set(
        xlabel="lowest trained layer (the higher, the less a step costs)",
        ylabel=f"{page.ground.metric}, %, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        title=page.title,
        xticks=sorted({layers[0] for layers in sets}),
    )
    axes.margins(0.08)
    labels = [
        Label(float(place), float(mean), _words(names[layers]), style.VERMILION)
        for layers, place, mean in zip(sets, places, means, strict=True)
        if layers in names
    ]
    style.settle(figure)
    label_points(figure, axes, labels)
    return figure


def _words(names: list[str]) -> str:
    more = len(names) - _NAMED
    return "\n".join([*names[:_NAMED], *([f"and {more} more"] if more > 0 else [])])


def _places(sets: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Spread the sets of one lowest layer side by side, in the order of their other layers."""
    groups = [(lowest, len(list(of))) for lowest, of in groupby(sets, key=lambda layers: layers[0])]
    spread = [lowest + (np.linspace(-_WIDTH, _WIDTH, n) if n > 1 else np.zeros(1)) for lowest, n in groups]
    return np.concatenate(spread)
