"""How every figure looks, and how it is written: the same bytes for the same records.

Colours are those of Okabe and Ito (2008), told apart with every kind of colour vision and, with the markers
beside them, in grey; text in a colour is darkened until it can be read (`ink`). Figures are 7.2 inches wide,
as a page of the journal is, and no text is below 8 pt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layertune.config.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2  # inches
VERMILION, BLUE, GREEN, ORANGE = "#d55e00", "#0072b2", "#009e73", "#e69f00"
GREY, BLACK = "#6b7480", "#222222"
HEAT = "cividis"  # uniform, and the same to readers who confuse red and green
# What is not known beforehand stays out of the files: dates, and the version that drew them.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_SETTINGS: Any = {
    "font.size": 8,
    "font.family": "DejaVu Sans",  # comes with matplotlib: every machine draws the same
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "figure.titlesize": 10,
    "axes.linewidth": 0.7,
    "axes.axisbelow": True,
    "svg.hashsalt": "layertune",
    "savefig.dpi": 160,
}


@dataclass(frozen=True)
class Mark:
    """How points of one kind are drawn."""

    colour: str
    marker: str


@contextmanager
def print_style() -> Iterator[None]:
    """Set fonts and sizes for the figures drawn and saved within."""
    import matplotlib

    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that arranges its panels without overlaps."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


@cache
def ink(colour: str) -> str:
    """Return a colour as dark as text must be on white: a contrast of 4.5 to 1 (WCAG 2, level AA)."""
    from matplotlib.colors import to_hex, to_rgb

    red, green, blue = to_rgb(colour)
    darker = (to_hex((step * red, step * green, step * blue)) for step in (1 - n / 50 for n in range(50)))
    return next(one for one in darker if contrast(one) >= 4.5)


def contrast(colour: str) -> float:
    """Return the contrast of a colour to white, 1 to 21, as WCAG 2 defines it."""
    from matplotlib.colors import to_rgb

    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return 1.05 / (0.05 + sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))


def settle(figure: Figure) -> None:
    """Arrange the panels for good.

    Their places are rounded: the last bits of what the layout's solver finds differ from run to run, and
    names within an SVG are made of all bits.
    """
    if figure.get_layout_engine() is None:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        place = axes.get_position(original=True)
        left, bottom, width, height = (round(float(value), 5) for value in place.bounds)
        axes.set_position((left, bottom, width, height))


def save(figure: Figure, path: Path) -> Path:
    """Write a figure, atomically and without a date; the ending chooses the format; return the path."""
    buffer = BytesIO()
    kind = path.suffix.lstrip(".").lower()
    with print_style():  # whose salt makes the names within an SVG, which are random without it
        settle(figure)
        figure.savefig(buffer, format=kind, metadata=_METADATA.get(kind))
    return write_atomic(path, buffer.getvalue())


def save_both(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and as SVG; return both paths."""
    return [save(figure, folder / f"{name}.{kind}") for kind in ("png", "svg")]


def layer_ticks(count: int, most: int = 13) -> list[int]:
    """Return the layers whose numbers are printed: all, or every second, third ... where they are many."""
    step = -(-count // most)
    return list(range(step, count + 1, step))


def bare(axes: Axes, grid: str = "y") -> None:
    """Take away the frame's upper and right side and put pale lines behind the points."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="0.9", linewidth=0.7)  # type: ignore[arg-type]


def say(axes: Axes, text: str) -> None:
    """Put a sentence where a panel has nothing to draw."""
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
    for spine in axes.spines.values():
        spine.set(color="0.8", linestyle=(0, (3, 3)))
    axes.text(0.5, 0.5, text, ha="center", va="center", color=ink(GREY), wrap=True)


def caption(figure: Figure, lines: Sequence[str]) -> None:
    """Print sentences below the panels, where whoever sees the picture alone finds them."""
    import textwrap

    width = int(figure.get_figwidth() * 17)  # characters of 8 pt in an inch
    text = "\n".join(part for line in lines if line for part in textwrap.wrap(line, width))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color="0.25", parse_math=False)
