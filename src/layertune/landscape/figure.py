"""All sets by their lowest layer, which decides what a step costs, against what they reach; rules by name."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from layertune.report.figures import style
from layertune.report.figures.labels import Label, label_points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from layertune.landscape.page import Page

_WIDTH = 0.35  # half of what the sets of one lowest layer take, in layers
_NAMED = 8  # sets that are named: more do not fit


def landscape_figure(page: Page) -> Figure:
    """Return the figure of one landscape."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = style.new_figure(style.WIDTH, 4.0)
    FigureCanvasAgg(figure)  # which measures the names
    axes = figure.subplots()
    places = _places(page)
    means = 100 * page.scores.means
    axes.scatter(
        [places[layers] for layers in page.scores.sets], means, s=9, color=style.GREY, linewidths=0, zorder=2
    )
    names: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for name, placed in page.placed:
        names[placed.layers].append(name)
    marked = {layers: means[page.scores.sets.index(layers)] for layers in names}
    axes.scatter(
        [places[layers] for layers in marked], list(marked.values()), s=26, color=style.VERMILION, zorder=3
    )
    style.bare(axes)
    axes.set(
        xlabel="lowest trained layer (the higher, the less a step costs)",
        ylabel=f"{page.metric}, %, {'mean of seeds' if len(page.scores.seeds) > 1 else 'seed'} "
        f"{', '.join(map(str, page.scores.seeds))}",
        title=page.title,
    )
    axes.set_xticks(sorted({layers[0] for layers in page.scores.sets}))
    labels = [
        Label(places[layers], float(value), _words(names[layers]), style.VERMILION)
        for layers, value in list(marked.items())[:_NAMED]
    ]
    style.settle(figure)
    label_points(figure, axes, labels)
    return figure


def _words(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 3 else f"{names[0]}, {names[1]} + {len(names) - 2}"


def _places(page: Page) -> dict[tuple[int, ...], float]:
    """Spread the sets of one lowest layer side by side, in the order of their other layers."""
    groups: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for layers in page.scores.sets:
        groups[layers[0]].append(layers)
    return {
        layers: lowest + (_WIDTH * (2 * place / (len(group) - 1) - 1) if len(group) > 1 else 0.0)
        for lowest, group in groups.items()
        for place, layers in enumerate(group)
    }
