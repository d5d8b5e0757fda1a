"""All sets by their lowest layer, which decides what a step costs, against what they reach; rules by name."""

from __future__ import annotations

from itertools import groupby
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING

import numpy as np

from layertune.report.figures import style
from layertune.report.figures.labels import Label, label_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from layertune.landscape.page import Page
    from layertune.landscape.questions import Array

_WIDTH = 0.35  # half of what the sets of one lowest layer take, in layers


def landscape_figure(page: Page) -> Figure:
    """Return the figure of one landscape: a letter beside each set that a rule takes, explained below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    sets, means, seeds = page.scores.sets, 100 * page.scores.means, page.scores.seeds
    names: dict[tuple[int, ...], list[str]] = {}
    for rule, at in page.rules:
        if at is not None and at.layers:
            names.setdefault(at.layers, []).append(rule.name)
    letters = dict(zip(names, ascii_uppercase + ascii_lowercase, strict=False))
    figure = style.new_figure(style.WIDTH, 3.4 + 0.17 * len(letters))
    FigureCanvasAgg(figure)  # which measures the letters
    axes = figure.subplots()
    places = _places(sets)
    marked = np.array([layers in letters for layers in sets])
    axes.scatter(places[~marked], means[~marked], s=12, color=style.GREY, linewidths=0, zorder=2)
    axes.scatter(places[marked], means[marked], s=26, color=style.VERMILION, zorder=3)
    style.bare(axes)
    axes.set(
        xlabel="lowest trained layer, its sets side by side (the higher, the less a step costs)",
        ylabel=f"{page.ground.metric}, %, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}",
        title=page.title,
        xticks=sorted({layers[0] for layers in sets}),
    )
    axes.margins(0.06)
    style.caption(
        figure,
        [f"{letters[one]}  {' '.join(map(str, one))}: {', '.join(names[one])}" for one in letters],
    )
    style.settle(figure)
    at_place = list(zip(places.tolist(), means.tolist(), strict=True))
    labels = [
        Label(*place, letters[layers], style.VERMILION)
        for layers, place in zip(sets, at_place, strict=True)
        if layers in letters
    ]
    label_points(figure, axes, labels, others=at_place)
    return figure


def _places(sets: tuple[tuple[int, ...], ...]) -> Array:
    """Spread the sets of one lowest layer side by side, in the order of their other layers."""
    groups = [(lowest, len(list(of))) for lowest, of in groupby(sets, key=lambda layers: layers[0])]
    spread = [lowest + (np.linspace(-_WIDTH, _WIDTH, n) if n > 1 else np.zeros(1)) for lowest, n in groups]
    return np.concatenate(spread)
