"""The similarity of every two layers beside the score of each (the form of Figs. 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from layertune.errors import ConfigError
from layertune.records.record import Record
from layertune.report.figures import style

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
class KeptScores:
    """Layer scores as a record keeps them."""

    values: Sequence[float]
    std: Sequence[float]
    matrix: Sequence[Sequence[float]] | None


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


def kept_scores(record: Record) -> KeptScores | None:
    """Return the scores of a record, what was not finite as nan; None where its method scored no layers."""
    selection = record.selection
    if selection is None or selection.scores is None or selection.std is None:
        return None
    matrix = None if selection.matrix is None else [_numbers(row) for row in selection.matrix]
    return KeptScores(_numbers(selection.scores), _numbers(selection.std), matrix)


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def off_diagonal(matrix: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return a matrix with nan on its diagonal.

    It is one (or zero) by definition: leaving it out keeps the colours for what was measured.
    """
    return [
        [float("nan") if i == j else value for j, value in enumerate(row)] for i, row in enumerate(matrix)
    ]


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
