"""`make figures`: all figures of a model as PNG and SVG, and a page of them; records and request alone decide
every byte.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layertune.config.files import write_atomic
from layertune.report.figures import style
from layertune.report.figures.cost import cost_content, cost_figure, points_of
from layertune.report.figures.methods import improvement, improvement_figure, ranks, ranks_figure, runs_of
from layertune.report.figures.scores import choices_figure, controls_figure, heat_maps, task_of
from layertune.report.figures.sweeps import sweeps
from layertune.report.index import RecordIndex
from layertune.report.layer_scores import ModelScores, chosen_layers, judge_choice, model_scores, scored_tasks
from layertune.report.paper_claims import STRATEGIES
from layertune.report.render.formats import csv_of, to_html
from layertune.report.render.words import fill_command
from layertune.report.request import COMPARED, Request
from layertune.report.spec import TableSpec, model_title
from layertune.report.values import table_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAT_MAPS, SWEEPS = ("figure2", "figure3"), ("figure4", "figure5")
PAGE = "index.html"
TITLES = {
    **{f"figure{n}": f"Figure {n}" for n in range(2, 6)},
    "ranks": "Average ranks over tasks",
    "improvement": "Probability of improvement",
    "controls": "Scores without the words",
    "layers_by_task": "Layers that each task selects",
}
FOLDERS = ("runs", "scores")  # of the results: finished runs, and kept records of stage=score


@dataclass(frozen=True)
class Drawn:
    """One figure: its files, none where there is nothing to draw, and how much of it is recorded."""

    name: str
    files: tuple[Path, ...]
    coverage: str

    @property
    def title(self) -> str:
        """What it shows, in words."""
        return TITLES.get(self.name) or f"Accuracy against cost: {self.name.removeprefix('cost_')}"


def write_figures(request: Request, results: Path) -> list[Drawn]:
    """Write Figures 4 and 5, costs per task, and methods over tasks, into the folder of the request.

    What shows layer scores, which no setting changes, lies in the folder of the model that it shows: Figures
    2 and 3, the controls, and which layers each task selects. Accuracy against cost is drawn for tasks on
    which at least two methods have a finished run. A figure of which nothing is recorded is not drawn. A page
    of them all, which links to tables and claims, lies in the folder of the request.

    Raises:
        ConfigError: an unknown model or setting.
    """
    index = RecordIndex.read(*(results / folder for folder in FOLDERS))
    folder = results / "figures" / request.folder
    of_model = results / "figures" / request.model
    of_models = (
        results / "figures" / Request(request.model, request.lm).folder
    )  # the language model's beside it
    drawn = []
    specs = [request.table(name) for name in HEAT_MAPS]
    models = dict.fromkeys([request.model, *(row.model for spec in specs for row in spec.rows)])
    known = {model: model_scores(index, model) for model in models}
    for spec in specs:
        there = sum(task_of(row) in known[row.model].by_task for row in spec.rows)
        coverage = f"{there} of {len(spec.rows)} tasks"
        figure = heat_maps(spec, known) if there else None
        drawn.append(_saved(figure, of_models if spec.name == "figure3" else of_model, spec.name, coverage))
    for name in SWEEPS:
        spec = request.table(name)
        values = table_values(spec, index, request.readout)
        done, wanted = values.coverage
        fill = fill_command(spec, request) if values.missing else ""
        figure = sweeps(values, fill) if values.records else None
        drawn.append(_saved(figure, folder, name, f"{done} of {wanted} runs"))
    tasks = scored_tasks(request.model)
    drawn += [one for task in tasks if (one := _cost(request, index, task, folder)) is not None]
    own = known[request.model]
    drawn += _methods(request, index, folder)
    choice = judge_choice(index, request.model)
    if choice.controls:
        controls = {name: model_scores(index, request.model, name) for name in choice.controls}
        coverage = f"{len(choice.tasks)} tasks, {len(controls)} controls"
        drawn.append(_saved(controls_figure(own, controls, choice), of_model, "controls", coverage))
    if own.by_task:
        coverage = _write_scores(own, of_model)
        drawn.append(_saved(choices_figure(own), of_model, "layers_by_task", coverage))
    _write_page(request, drawn, results)
    return drawn


def _write_page(request: Request, drawn: Sequence[Drawn], results: Path) -> None:
    """Write the page of all figures; where none was drawn, an old one is removed."""
    folder = results / "figures" / request.folder
    places = [(one, Path(os.path.relpath(one.files[-1], folder)).as_posix()) for one in drawn if one.files]
    if not places:
        (folder / PAGE).unlink(missing_ok=True)
        return
    claims = f"claims/{request.folder}.md"
    page = to_html(
        "figures",
        title=f"layertune: figures of {model_title(request.model)}",
        asked=request.asked,
        anchor=request.folder,
        command=request.make("figures"),
        claims=f"../../{claims}" if (results / claims).is_file() else "",
        drawn=places,
        not_drawn=[one.title for one in drawn if not one.files],
        damaged=(),
    )
    write_atomic(folder / PAGE, page.encode())


def _saved(figure: Figure | None, folder: Path, name: str, coverage: str) -> Drawn:
    """Write a figure; what was drawn of one that has lost its records is removed."""
    if figure is None:
        for path in folder.glob(f"{name}.*g"):
            path.unlink()
        return Drawn(name, (), f"{coverage}: not drawn")
    return Drawn(name, tuple(style.save_both(figure, folder, name)), coverage)


def _methods(request: Request, index: RecordIndex, folder: Path) -> list[Drawn]:
    """Draw ranks and probabilities of improvement over Tables 1 and 2; nothing where they hold too little."""
    tables = [table_values(request.table(name), index, request.readout) for name in COMPARED]
    titles = {row.name: row.title.replace(" (Ours)", "") for table in tables for row in table.spec.rows}
    runs = runs_of(tables)
    found = ranks(runs)
    if found is None:
        return []
    name = model_title(request.model)
    drawn = [
        _saved(
            ranks_figure(found, titles, STRATEGIES, f"Methods on {name}: average ranks"),
            folder,
            "ranks",
            f"{len(found.methods)} methods, {len(found.tasks)} tasks",
        )
    ]
    others = [other for other in titles if other not in STRATEGIES]
    better = [one for m in STRATEGIES for other in others if (one := improvement(runs, m, other)) is not None]
    if better:
        figure = improvement_figure(better, titles, f"Methods on {name}: probability of improvement")
        drawn.append(_saved(figure, folder, "improvement", f"{len(better)} pairs of methods"))
    return drawn


def _cost(request: Request, index: RecordIndex, task: str, folder: Path) -> Drawn | None:
    """Draw one task's costs; nothing where fewer than two methods are finished."""
    recorded = {
        record.spec.method
        for record in index.records
        if (record.spec.task, record.spec.model, record.status) == (task, request.model, "done")
    }
    if len(recorded) < 2:
        return None
    spec: TableSpec = request.table(f"cost_{task}", cost_content(task))
    values = table_values(spec, index, request.readout)
    points = points_of(values, "seconds")
    if len(points) < 2:
        return None
    return _saved(cost_figure(values), folder, f"cost_{task}", f"{len(points)} methods")


def _write_scores(known: ModelScores, folder: Path) -> str:
    """Write the numbers behind `layers_by_task` beside it; return how many tasks have them."""
    tasks = scored_tasks(known.model)
    lines = [
        {
            **{"task": one.task, "data": one.data_status, "examples": one.examples, "train": one.total},
            "seeds": " ".join(map(str, one.seeds)),
            **{name: " ".join(map(str, chosen_layers(name, one.values))) for name in STRATEGIES},
            **{f"score_{layer}": f"{value:.6f}" for layer, value in enumerate(one.values, start=1)},
            "run_id": one.run_ids[0],
        }
        for task in tasks
        for one in known.by_task.get(task, ())
    ]
    if lines:
        write_atomic(folder / "layers_by_task.csv", csv_of(lines).encode())
    return f"{len(known.first(tasks))} of {len(tasks)} tasks"
