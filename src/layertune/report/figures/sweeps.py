"""Figures 4 and 5: the metric and the speed-up of a training step for every k (§7.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layertune.report.figures import style
from layertune.report.figures.scores import CHOSEN_BY
from layertune.report.figures.style import Mark
from layertune.report.spec import Column, Row, model_title
from layertune.report.values import MARKS, CellValue, TableValues

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def sweeps(values: TableValues, fill: str = "") -> Figure:
    """Return the figure: a panel per column, a line per method of the sweep, full fine-tuning as a line.

    A point is a mean over seeds with its sample standard deviation; hollow and labelled `n/m` where runs are
    missing; where there is none, there is no point, and the panel says how many of k have one.
    """
    spec = values.spec
    with style.print_style():
        figure = style.new_figure(style.WIDTH, 3.4)
        panels = figure.subplots(1, len(spec.columns), squeeze=False)[0]
        for axes, column in zip(panels, spec.columns, strict=True):
            _panel(axes, values, column)
        task = spec.columns[0].title.rpartition(" (")[0]
        figure.suptitle(f"{spec.title}: {task}, {model_title(spec.model)}")
        style.caption(figure, _sentences(values, fill))
    return figure


def _panel(axes: Axes, values: TableValues, column: Column) -> None:
    rows = [row for row in values.spec.rows if row.k is not None]
    methods = list(dict.fromkeys(row.name.partition("@")[0] for row in rows))
    ks = sorted({row.k for row in rows if row.k is not None})
    axes.set_title(column.title)
    if all(values.cell(row.key, column.key).mean is None for row in values.spec.rows):
        states = _states(values, column, values.spec.rows)
        style.say(axes, f"no run recorded\n({states} of {len(values.spec.rows)} points)")
        return
    axes.set(xlabel="k (trained layers)", xticks=style.layer_ticks(ks[-1]))
    axes.set(ylabel=_label(column), xlim=(ks[0] - 0.5, ks[-1] + 0.5))
    style.bare(axes)
    for shift, method in zip((-0.08, 0.08), methods, strict=True):
        own = [row for row in rows if row.name.partition("@")[0] == method]
        _line(axes, values, column, own, CHOSEN_BY[method], shift, method)
    full = next((row for row in values.spec.rows if row.k is None), None)
    if full is not None:
        _full(axes, values.cell(full.key, column.key), column)
    axes.legend(loc="best", frameon=False)


def _label(column: Column) -> str:
    """Return what the axis measures, with its unit."""
    if column.measure == "speedup":
        return "speed-up over full fine-tuning (×)"
    return f"{column.metric.replace('_', ' ')} ({'%' if column.unit == 'percent' else column.unit})"


def _line(
    axes: Axes,
    values: TableValues,
    column: Column,
    rows: Sequence[Row],
    mark: Mark,
    shift: float,
    method: str,
) -> None:
    """Draw one method: complete points joined where no k lies between them without one."""
    found = [(row.k or 0, values.cell(row.key, column.key)) for row in rows]
    points = [(k, value) for k, value in found if value.mean is not None]
    sign = 1 if shift > 0 else -1
    done = len([value for _, value in found if value.state == "done"])
    label = f"{method}: {done} of {len(found)} k complete"
    line = [value.mean if value.mean is not None else float("nan") for _, value in found]
    axes.plot([k + shift for k, _ in found], line, color=mark.colour, linewidth=1)
    axes.plot([], [], color=mark.colour, marker=mark.marker, linewidth=1, markersize=5, label=label)
    for k, value in points:
        whole = value.state == "done"
        axes.errorbar(
            k + shift,
            value.mean or 0.0,
            yerr=value.std,
            fmt=mark.marker,
            color=mark.colour,
            markerfacecolor=mark.colour if whole else "white",
            markersize=5,
            elinewidth=1,
            capsize=2,
        )
        if not whole:
            axes.annotate(
                f"{value.n}/{value.wanted}",
                (k + shift, value.mean or 0.0),
                xytext=(0, 7 * sign),  # away from the other line
                ha="center",
                va="bottom" if sign > 0 else "top",
                textcoords="offset points",
                color=style.ink(mark.colour),
            )


def _full(axes: Axes, value: CellValue, column: Column) -> None:
    """Draw full fine-tuning as a line with its spread; of a speed-up it is 1 by definition."""
    if column.measure == "speedup":
        axes.axhline(1.0, color=style.BLACK, linestyle="--", linewidth=1, label="full fine-tuning: 1")
    elif value.mean is None:
        axes.plot([], [], " ", label=f"full fine-tuning: {value.state}")
    else:
        runs = "" if value.state == "done" else f" ({value.n} of {value.wanted} runs)"
        label = f"full fine-tuning{runs}"
        axes.axhline(value.mean, color=style.BLACK, linestyle="--", linewidth=1, label=label)
        if value.std is not None:
            low, high = value.mean - value.std, value.mean + value.std
            axes.axhspan(low, high, color=style.BLACK, alpha=0.08, linewidth=0)


def _states(values: TableValues, column: Column, rows: Sequence[Row]) -> str:
    states = [values.cell(row.key, column.key).state for row in rows]
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))


def _sentences(values: TableValues, fill: str) -> list[str]:
    done, wanted = values.coverage
    lines = [
        f"{done} of {wanted} runs recorded. Mean ± sample standard deviation over seeds; hollow points lack "
        "runs; read-out: "
        + ("last epoch." if values.readout == "last" else "best epoch on the evaluation split.")
    ]
    marks = {mark for value in values.cells.values() for mark in value.marks}
    if "data" in marks:
        lines.append(f"{MARKS['data']} rows other than the official data: {', '.join(values.data_statuses)}.")
    if values.devices:
        lines.append(f"Device: {'; '.join(values.devices)}.")
    if fill:
        lines.append(f"To fill: {fill}")
    return lines
