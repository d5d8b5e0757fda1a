"""Accuracy against cost: all methods of one model on one task, by seconds and by trained parameters."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layertune.config.compose import group_choice
from layertune.config.groups import group_names
from layertune.config.rates import GRIDS
from layertune.report.figures import style
from layertune.report.figures.labels import Label, label_points
from layertune.report.figures.style import Mark
from layertune.report.index import RecordIndex
from layertune.report.rounding import printed
from layertune.report.spec import load_table, model_title
from layertune.report.values import TableValues, run_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GROUPS = {
    "full fine-tuning": Mark(style.BLACK, "s"),
    "layers by cosine score": Mark(style.VERMILION, "o"),
    "layers by other rules": Mark(style.ORANGE, "D"),
    "added parameters": Mark(style.BLUE, "^"),
    "other partial fine-tuning": Mark(style.GREEN, "v"),
}
_ADDED = ("lora", "adapters", "prefix", "ia3")


def cost_content(task: str) -> dict[str, Any]:
    """Return the specification of one task's figure, in the form of a file of configs/table."""
    methods = sorted(group_names("method"), key=lambda name: name != "full")
    rows: list[dict[str, Any]] = [
        {
            "key": f"{name}@{grid}",
            "title": name if grid == "paper" else f"{name} ({grid})",
            "overrides": [f"method={name}", f"grid={grid}"],
        }
        for name in methods
        for grid in GRIDS
    ]
    own = {"task": task, "overrides": [f"task={task}"]}
    measured = [("parameters", "trainable_parameters", "million"), ("seconds", "run_seconds", "second")]
    columns = [task] + [
        {**own, "key": key, "metric": key, "measure": measure, "unit": unit, "higher_is_better": False}
        for key, measure, unit in measured
    ]
    return {
        "name": f"cost_{task}",
        "title": "Accuracy against cost",
        "caption": "All methods",
        "paper_model": "bert",
        "seeds": load_table("table1").seeds,
        "reference": "full@paper",
        "rows": [{"rows": rows}],
        "columns": columns,
    }


@dataclass(frozen=True)
class Point:
    """One method of one grid."""

    label: str
    group: str
    score: float  # printed unit
    std: float | None
    cost: float  # printed unit


def group_of(method: str) -> str:
    """Return the legend's name for a kind of method."""
    file = group_choice("method", method)
    if method == "full":
        return "full fine-tuning"
    if file["kind"] == "selected":
        return "layers by cosine score" if file.get("scorer") == "cosine" else "layers by other rules"
    return "added parameters" if file["kind"] in _ADDED else "other partial fine-tuning"


def points_of(values: TableValues, column: str) -> list[Point]:
    """Return the methods that have both a score and a cost; `n/m` in the label where runs are missing."""
    score_key = values.spec.columns[0].key
    points = []
    for row in values.spec.rows:
        score, cost = values.cell(row.key, score_key), values.cell(row.key, column)
        if score.mean is None or cost.mean is None:
            continue
        runs = "" if score.n == score.wanted else f" {score.n}/{score.wanted}"
        method = row.key.partition("@")[0]
        points.append(Point(f"{row.title}{runs}", group_of(method), score.mean, score.std, cost.mean))
    return points


def mean_points(tables: Sequence[TableValues], index: RecordIndex) -> tuple[list[Point], list[str]]:
    """Return scores and seconds of the rows of some tables, as means over tasks, and these tasks.

    The tasks are those that at least half as many rows have as the one with most; a row counts that has all
    of them, on the device of most records, and learned something there. Nothing is returned for fewer than
    three rows.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {}  # row -> task -> score, seconds
    titles = {row.key: row for table in tables for row in table.spec.rows if not row.of}
    devices = Counter(record.device for table in tables for record in table.records)
    device = max(devices, key=lambda name: (devices[name], name), default="")
    for table in tables:
        for column in (column for column in table.spec.columns if not column.mean_of):
            for row in (row for row in table.spec.rows if not row.of):
                value = table.cell(row.key, column.key)
                records = [index.by_id[run_id] for run_id in value.run_ids]
                seconds = [run_seconds(one) for one in records]
                known = [one for one in seconds if one is not None]
                if (
                    value.mean is not None
                    and value.has_learned
                    and known
                    and {one.device for one in records} == {device}
                ):
                    found.setdefault(row.key, {})[column.task] = (value.mean, statistics.fmean(known))
    counts = Counter(task for tasks in found.values() for task in tasks)
    tasks = [task for task, count in counts.items() if 2 * count >= max(counts.values())]
    whole = {key: own for key, own in found.items() if set(tasks) <= set(own)}
    if len(whole) < 3:
        return [], []
    points = [
        Point(
            titles[key].title.replace(" (Ours)", ""),
            group_of(titles[key].name),
            statistics.fmean(own[task][0] for task in tasks),
            None,
            statistics.fmean(own[task][1] for task in tasks),
        )
        for key, own in whole.items()
    ]
    return points, tasks


def mean_cost_figure(points: list[Point], tasks: Sequence[str], model: str) -> Figure:
    """Return the figure of `mean_points`: one panel."""
    seconds = "seconds of a run: training, scoring the layers, caching frozen ones (CPU seconds on a CPU)"
    return _figure(
        {seconds: points},
        "mean score",
        f"Score against cost: {model}, {len(tasks)} task{'s' * (len(tasks) > 1)}",
        [f"Means over seeds and {', '.join(tasks)}. One run at a time was not assured."],
        height=4.4,
    )


def cost_figure(values: TableValues) -> Figure:
    """Return the figure of one task: a panel for the seconds, one for the trained parameters."""
    column = values.spec.columns[0]
    kind = "CPU seconds" if all(record.is_on_cpu for record in values.records) else "seconds"
    labels = {
        f"{kind} of training, with those of scoring the layers and of caching frozen ones (s)": "seconds",
        "parameters trained at once, head included (million)": "parameters",
    }
    mark = " ‡" if any("data" in value.marks for value in values.cells.values()) else ""
    task = column.title.rpartition(" (")[0] + mark
    return _figure(
        {label: points_of(values, key) for label, key in labels.items()},
        column.metric.replace("_", " "),
        f"{column.metric.capitalize()} against cost: {model_title(values.spec.model)} on {task}",
        _sentences(values),
        height=7.6,
    )


def _figure(
    panels: dict[str, list[Point]], score: str, title: str, lines: Sequence[str], height: float
) -> Figure:
    """Return a figure with a panel for each cost, by what its axis says."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with style.print_style():
        figure = style.new_figure(style.WIDTH, height)
        FigureCanvasAgg(figure)  # which measures the labels
        drawn = list(zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True))
        for axes, (cost, points) in drawn:
            _panel(axes, points, score)
            axes.set_xlabel(cost)
        _legend(figure, {point.group for points in panels.values() for point in points}, title)
        style.caption(figure, lines)
        style.settle(figure)  # the labels are placed where the panels now are
        for axes, (_, points) in drawn:
            label_points(
                figure,
                axes,
                [
                    Label(p.cost, _shown(axes, p), _text(axes, p), GROUPS[p.group].colour, p.std or 0.0)
                    for p in points
                ],
            )
    return figure


def _panel(axes: Axes, points: list[Point], title: str) -> None:
    """Draw the points; one far below the others stands on the lower edge with its number."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if not points:
        style.say(axes, "no finished run holds both numbers")
        return
    axes.set_xscale("log")
    low, high = _range([point.score for point in points])
    margin = 0.12 * max(high - low, 0.5)
    reached = max(point.score + (point.std or 0.0) for point in points)
    axes.set_ylim(low - 2 * margin, max(high, reached) + margin)
    for point in points:
        mark = GROUPS[point.group]
        below = point.score < axes.get_ylim()[0]
        axes.errorbar(
            point.cost,
            _shown(axes, point),
            yerr=None if below else point.std,
            linestyle="",
            marker=r"$\downarrow$" if below else mark.marker,
            color=mark.colour,
            markersize=6 if below else 5,
            elinewidth=0.8,
            capsize=2,
        )
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    costs = [point.cost for point in points]
    axes.set_xlim(min(costs) / 1.18, max(costs) * 1.18)
    axes.set_ylabel(f"{title} (%)")
    style.bare(axes, "both")


def _range(scores: Sequence[float]) -> tuple[float, float]:
    """Return the range to show: without the lowest where they lie further off than the rest is wide."""
    ordered = sorted(scores)
    for start in range(min(3, len(ordered) - 2), 0, -1):
        rest = ordered[start:]
        if ordered[start] - ordered[start - 1] > rest[-1] - rest[0]:
            return rest[0], rest[-1]
    return ordered[0], ordered[-1]


def _shown(axes: Axes, point: Point) -> float:
    """Return the height of a point, that of the lower edge for one below it."""
    bottom, top = axes.get_ylim()
    return max(point.score, bottom + 0.03 * (top - bottom))


def _text(axes: Axes, point: Point) -> str:
    below = point.score < axes.get_ylim()[0]
    return f"{point.label}: {printed(point.score, 1)}" if below else point.label


def _legend(figure: Figure, groups: set[str], title: str) -> None:
    from matplotlib.lines import Line2D

    marks = [(name, mark) for name, mark in GROUPS.items() if name in groups]
    handles = [
        Line2D([], [], linestyle="", marker=mark.marker, color=mark.colour, markersize=5, label=name)
        for name, mark in marks
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=3,
        frameon=False,
        title=title,
        title_fontsize=10,
    )


def _sentences(values: TableValues) -> list[str]:
    spec = values.spec
    cells = {row.key: values.cell(row.key, spec.columns[0].key) for row in spec.rows}

    def of_state(state: str) -> list[str]:
        return [row.title for row in spec.rows if cells[row.key].state == state]

    done, wanted = sum(cell.n for cell in cells.values()), sum(cell.wanted for cell in cells.values())
    lines = [
        f"{done} of {wanted} runs recorded; mean ± sample "
        "standard deviation over seeds, n/m where n of m seeds are recorded. “fair”: learning "
        f"rates of grid=fair. Train {spec.train}, protocol {spec.protocol}"
        + (f", {', '.join(spec.extra)}." if spec.extra else "."),
    ]
    lacking = {state: of_state(state) for state in ("failed", "oom", "stale", "absent", "refused")}
    lines += [f"{state.capitalize()}: {', '.join(names)}." for state, names in lacking.items() if names]
    there = {key.partition("@")[0] for key, cell in cells.items() if cell.mean is not None}
    # A method with a point under one grid is no gap, and it is named once, by its title under grid=paper.
    told = {r.title for r in spec.rows if r.key.partition("@")[0] in there or not r.key.endswith("@paper")}
    without = [name for name in of_state("missing") if name not in told]
    lines.append(f"No run yet: {', '.join(without)}." if without else "")
    if any("data" in value.marks for value in values.cells.values()):
        lines.append(f"‡ rows other than the official data: {', '.join(values.data_statuses)}.")
    lines.append(f"Device: {'; '.join(values.devices)}. One run at a time was not assured: an orientation.")
    return lines
