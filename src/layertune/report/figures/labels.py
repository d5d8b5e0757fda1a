"""Names beside points so that none lies on another, on a point, on a line or outside the panel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from layertune.report.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels
Boxes = npt.NDArray[np.float64]
_RADII = (7, 10, 14, 18, 24, 30, 38, 48, 60, 74, 90, 110)  # points, from the point to the label
_DIRECTIONS = 24
_POINT = 4.0  # half the side of a marker, in points
_GAP = 1.0  # around a label, in points
_JOINED = 12  # points: a label this far away is joined to its point by a line


@dataclass(frozen=True)
class Label:
    """What is written beside which point, in data coordinates."""

    x: float
    y: float
    text: str
    colour: str
    spread: float = 0.0  # half the length of the point's error bar


def overlaps(boxes: Boxes, others: Boxes) -> Boxes:
    """Return the areas that boxes [n, 4] share with others [m, 4], as [n, m]."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared: Boxes = np.clip(high - low, 0, None).prod(axis=2)
    return shared


def candidates(x: float, y: float, wide: float, high: float, scale: float) -> Iterator[tuple[float, Box]]:
    """Yield places for a label around a point, nearest first, each with its distance in points.

    Args:
        x, y: the point, in pixels.
        wide, high: of the label, in pixels.
        scale: pixels in a point of type.
    """
    for radius in _RADII:
        for step in range(_DIRECTIONS):
            angle = 2 * math.pi * step / _DIRECTIONS
            dx, dy = math.cos(angle), math.sin(angle)
            left = x + radius * scale * dx + (dx - 1) / 2 * wide
            bottom = y + radius * scale * dy + (dy - 1) / 2 * high
            yield radius, (left, bottom, left + wide, bottom + high)


def line_boxes(x: float, y: float, box: Box, start: float) -> list[Box]:
    """Return small boxes along the line from a point, `start` pixels away from it, to the middle of a box."""
    dx, dy = (box[0] + box[2]) / 2 - x, (box[1] + box[3]) / 2 - y
    length = math.hypot(dx, dy)
    steps = max(int(length / 4), 1)
    boxes = []
    for step in range(steps + 1):
        at = (x + dx * step / steps, y + dy * step / steps)
        inside = box[0] <= at[0] <= box[2] and box[1] <= at[1] <= box[3]
        if length * step / steps >= start and not inside:
            boxes.append((at[0] - 2, at[1] - 2, at[0] + 2, at[1] + 2))
    return boxes


def best_place(
    point: tuple[float, float],
    options: Iterable[tuple[float, Box]],
    taken: Sequence[Box],
    panel: Box,
    scale: float,
) -> tuple[float, float, Box]:
    """Return the nearest place that is free, inside the panel and reached by a free line.

    Where there is none: the free place whose line crosses least; without one the place that covers least.
    Before it, how much that is in square pixels, what lies outside the panel counted ten times.
    """
    places = list(options)
    boxes = np.array([box for _, box in places])
    occupied = np.array([*taken, (-1.0, -1.0, -1.0, -1.0)])
    inside = overlaps(boxes, np.array([panel]))[:, 0]
    area = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    cost = 10 * (area - inside) + overlaps(boxes, occupied).sum(axis=1)
    crossed: list[tuple[float, float, Box]] = []
    for index in np.flatnonzero(cost < 1e-6):
        radius, box = places[index]
        line = line_boxes(*point, box, (_POINT + 1.5) * scale) if radius >= _JOINED else []
        under = float(overlaps(np.array(line), occupied).sum()) if line else 0.0
        if not under:
            return 0.0, radius, box
        crossed.append((under, radius, box))
    if crossed:
        return min(crossed)
    least = int(cost.argmin())
    return float(cost[least]), *places[least]


def label_points(
    figure: Figure, axes: Axes, labels: Sequence[Label], others: Iterable[tuple[float, float]] = ()
) -> list[tuple[str, Box]]:
    """Write a label beside each point, joined to it by a line where it lies far away.

    The figure's layout must be final: the layout decides where pixels are.

    Args:
        figure: of the panel.
        axes: the panel.
        labels: what is written, and beside what.
        others: points without a label, in data coordinates, which no label may cover.

    Returns:
        the labels with the boxes they take, in pixels.
    """
    scale = figure.dpi / 72
    window = axes.get_window_extent()
    panel: Box = (window.x0, window.y0, window.x1, window.y1)
    at = [_pixel(axes, label.x, label.y) for label in labels]
    half = _POINT * scale
    bare = (_pixel(axes, *place) for place in others)
    taken: list[Box] = [(x - half / 2, y - half / 2, x + half / 2, y + half / 2) for x, y in bare]
    for label, (x, y) in zip(labels, at, strict=True):
        taken.append((x - half, y - half, x + half, y + half))
        if label.spread:
            ends = [_pixel(axes, label.x, label.y + s * label.spread)[1] for s in (-1, 1)]
            taken.append((x - half / 2, ends[0] - 1, x + half / 2, ends[1] + 1))
    sizes = [_size(figure, axes, label.text, scale) for label in labels]
    # Who comes first finds room: the best of a few orders, fixed so that equal points give equal places.
    orders: list[Callable[[int], tuple[float, ...]]] = [
        lambda i: (-at[i][1], at[i][0], i),
        lambda i: (at[i][1], at[i][0], i),
        lambda i: (at[i][0], at[i][1], i),
        lambda i: (-at[i][0], at[i][1], i),
        lambda i: (sum(math.dist(at[i], other) for other in at), i),
    ]
    tried = [
        _placed(sorted(range(len(labels)), key=order), at, sizes, taken, panel, scale) for order in orders
    ]
    _, places = min(tried, key=lambda one: one[0])
    for index, (radius, box) in sorted(places.items()):
        _write(axes, labels[index], at[index], box, radius >= _JOINED, scale)
    return [(labels[index].text, box) for index, (_, box) in sorted(places.items())]


def _placed(
    order: Sequence[int],
    at: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    taken: Sequence[Box],
    panel: Box,
    scale: float,
) -> tuple[float, dict[int, tuple[float, Box]]]:
    """Place labels one after the other; return how bad that is, and index -> distance and box."""
    occupied = list(taken)
    places: dict[int, tuple[float, Box]] = {}
    badness = 0.0
    for index in order:
        options = list(candidates(*at[index], *sizes[index], scale))
        cost, radius, box = best_place(at[index], options, occupied, panel, scale)
        badness += radius**2 + 100 * cost
        places[index] = (radius, box)
        occupied.append(box)
        if radius >= _JOINED:
            occupied += line_boxes(*at[index], box, _POINT * scale)
    return badness, places


def _pixel(axes: Axes, x: float, y: float) -> tuple[float, float]:
    at = axes.transData.transform((x, y))
    return float(at[0]), float(at[1])


def _size(figure: Figure, axes: Axes, text: str, scale: float) -> tuple[float, float]:
    """Measure a text in pixels, with the gap around it."""
    probe = axes.annotate(text, (0, 0), xycoords="figure pixels", annotation_clip=False)
    size = probe.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
    probe.remove()
    return size.width + 2 * _GAP * scale, size.height + 2 * _GAP * scale


def _write(axes: Axes, label: Label, point: tuple[float, ...], box: Box, joined: bool, scale: float) -> None:
    """Put a label into its box, placed by its offset from the point, so that PNG and SVG agree."""
    offset = ((box[0] + box[2]) / 2 - point[0]) / scale, ((box[1] + box[3]) / 2 - point[1]) / scale
    line = {"arrowstyle": "-", "color": "0.55", "linewidth": 0.6, "shrinkA": 0, "shrinkB": _POINT}
    axes.annotate(
        label.text,
        (label.x, label.y),
        xytext=offset,
        textcoords="offset points",
        ha="center",
        va="center",
        color=style.ink(label.colour),
        arrowprops=line if joined else None,
    )
