"""Figures of the report. Nothing here imports torch; matplotlib is imported only when a figure is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from layertune.records.record import Record

_CHOSEN = "#d55e00"  # vermilion: tells itself apart from grey, and from blue to yellow, for every reader


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
) -> None:
    """Draw the similarity of every pair of layers and each layer's score (the form of Figs. 2 and 3).

    The heat-map is left out where the scorer compares no layers.

    Args:
        scores: one value per layer, their spread, and the [L][L] matrix or None.
        layers: the chosen layers, counted from 1: marked in both panels.
        path: where the picture goes; the ending chooses the format.
        name: what was measured; labels the colour bar and the axis.
        title: above the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    count = len(scores.values)
    numbers = list(range(1, count + 1))
    side = max(3.6, 0.27 * count)
    size = 8 if count <= 16 else 6
    has_matrix = scores.matrix is not None
    widths = [1.25, 1.0] if has_matrix else [1.0]
    figure, axes = plt.subplots(
        1,
        len(widths),
        figsize=(side * sum(widths) + 1.2, side + 0.8),
        width_ratios=widths,
        layout="constrained",
    )
    panels = list(axes) if has_matrix else [axes]
    if scores.matrix is not None:
        grid = panels[0]
        # The diagonal is one (or zero) by definition: leaving it out keeps the colours for what was measured.
        shown = [
            [float("nan") if i == j else value for j, value in enumerate(row)]
            for i, row in enumerate(scores.matrix)
        ]
        image = grid.imshow(
            shown, cmap="cividis", origin="lower", extent=(0.5, count + 0.5, 0.5, count + 0.5)
        )
        grid.set_facecolor("white")
        grid.set(xlabel="layer", ylabel="layer", xticks=numbers, yticks=numbers)
        grid.tick_params(labelsize=size)
        for axis_labels in (grid.get_xticklabels(), grid.get_yticklabels()):
            _mark(axis_labels, layers)
        bar = figure.colorbar(image, ax=grid, label=f"mean {name}", fraction=0.046, pad=0.03)
        bar.ax.tick_params(labelsize=size)
    points = panels[-1]
    for number, value, std in zip(numbers, scores.values, scores.std, strict=True):
        colour = _CHOSEN if number in layers else "#55606b"
        points.errorbar(value, number, xerr=std, fmt="o", color=colour, elinewidth=1, capsize=2, markersize=5)
    points.set(xlabel=f"score: {name} to the others\n(mean ± std over examples)", yticks=numbers)
    points.set_ylim(0.5, count + 0.5)
    points.set_title("chosen: " + ", ".join(map(str, layers)), color=_CHOSEN, fontsize=10)
    points.grid(axis="y", color="0.9")
    points.set_axisbelow(True)
    points.spines[["top", "right"]].set_visible(False)
    points.tick_params(labelsize=size)
    _mark(points.get_yticklabels(), layers)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=160)
    plt.close(figure)


def _mark(labels: Sequence[object], layers: Sequence[int]) -> None:
    for label in labels:
        if label.get_text() in {str(layer) for layer in layers}:  # type: ignore[attr-defined]
            label.set(color=_CHOSEN, fontweight="bold")  # type: ignore[attr-defined]


def plot_record(record: Record, path: Path) -> None:
    """Draw the scores a record holds.

    Raises:
        ValueError: the record's method scored no layers.
    """
    selection = record.selection
    if selection is None or selection.scores is None or selection.std is None:
        raise ValueError(
            f"{record.run_id} holds no layer scores: its method chose its layers without scoring."
        )
    matrix = None if selection.matrix is None else [_numbers(row) for row in selection.matrix]
    kept = KeptScores(_numbers(selection.scores), _numbers(selection.std), matrix)
    title = f"{record.spec.model} on {record.spec.task}: {selection.examples:,} texts, {record.spec.method}"
    plot_similarity(kept, selection.layers or (), path, f"{selection.scorer} similarity", title)


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


@dataclass(frozen=True)
class KeptScores:
    """Layer scores as a record keeps them."""

    values: Sequence[float]
    std: Sequence[float]
    matrix: Sequence[Sequence[float]] | None
