"""`make landscape`: where every rule lands, how much there is to gain, which layers matter; table and figure.

What is written depends on the landscapes and records alone. Numbers are percentage points unless a column
says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from math import comb, isnan
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING

import numpy as np

from layertune.config.files import write_atomic
from layertune.errors import ConfigError
from layertune.landscape import Placed, auto, placed, scores_of, table_of
from layertune.landscape.questions import RESAMPLED, Array, Scores, additive, bootstrap, gain
from layertune.landscape.rows import FOLDER, Ground, read_rows
from layertune.landscape.rules import Rule, lacking_scorers, rules, scored_by
from layertune.report.figures import style
from layertune.report.figures.labels import Label, label_points
from layertune.report.index import RecordIndex
from layertune.report.layer_scores import rank_correlations
from layertune.report.paper_claims import STRATEGIES
from layertune.report.render.formats import csv_of, to_html, to_markdown
from layertune.report.render.sheet import Footer, Line, Sheet, SheetRow
from layertune.report.rounding import printed
from layertune.report.spec import choice_title, model_title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 0.35  # half of what the sets of one lowest layer take in the figure, in layers
COLUMNS = ("Layers", "Score", "Percentile", "95 % interval", "Regret")
LEGEND = (
    "Score: mean over seeds, in per cent.",
    "Percentile: of the other sets of this size that are worse, in per cent; equals count half. A random set "
    "has 50 on average. Its interval draws seeds and evaluation rows anew, the same for all sets.",
    "Regret: what the best set reaches more, chosen on one seed and read on another, in points.",
    "—: not known; the command is below.",
)


@dataclass(frozen=True)
class Page:
    """One landscape at one size of sets, with the rules in the order of their percentiles."""

    name: str  # of its files
    ground: Ground
    scores: Scores
    rules: tuple[tuple[Rule, Placed | None], ...]  # None: what it takes is not known, or not trained
    lacking: tuple[Footer, ...]  # what is still to be run, as commands

    @property
    def k(self) -> int:
        """Layers of a set."""
        return len(self.scores.sets[0])

    @property
    def title(self) -> str:
        """What it shows."""
        ground = self.ground
        where = f"{model_title(ground.model)} on {choice_title('task', ground.task)}"
        return f"{where}: {self.k} of {ground.num_layers} layers"


def write_landscapes(results: Path) -> list[Path]:
    """Write every landscape's tables (md, csv), figure and the page; return the files.

    Raises:
        ConfigError: there is no landscape.
        RecordError: one is damaged.
    """
    folder = results / FOLDER
    index = RecordIndex.read(results / "runs", results / "scores")
    pages = read_pages(folder, index)
    if not pages:
        raise ConfigError(
            f"{folder} holds no landscape: python run.py -m hydra/sweeper=landscape model=minilm_l6 "
            "task=trec k=3 makes one of 20 sets (docs/landscape.md)."
        )
    records = {
        path.stem: f"{name}/{path.stem}"
        for name in ("runs", "scores")
        for path in (results / name).glob("*.json")
    }
    sheets = [_sheet(page, records) for page in pages]
    files = []
    for page, sheet in zip(pages, sheets, strict=True):
        files.append(write_atomic(folder / f"{page.name}.csv", _csv(page).encode()))
        text = f"{to_markdown(sheet, '..')}\n![{page.title}]({page.name}.png)\n"
        files.append(write_atomic(folder / f"{page.name}.md", text.encode()))
        with style.print_style():
            files += style.save_both(landscape_figure(page), folder, page.name)
    html = to_html(
        "landscape",
        title="layertune: landscapes",
        sentences=correlations(pages),
        pages=[(replace(sheet, legend=(), notes=LEGEND, footers=()), sheet) for sheet in sheets],
        runs="..",
        damaged=index.damaged,
    )
    return [*files, write_atomic(folder / "index.html", html.encode())]


def read_pages(folder: Path, index: RecordIndex, model: str | None = None) -> list[Page]:
    """Return the landscapes of a folder at each of their sizes, of all models or of one.

    Raises:
        RecordError: a file is damaged.
    """
    files = sorted(folder.glob(f"{model or '*'}-*.jsonl"))
    pages = [page for path in files for page in _pages(path, index)]
    return [page for page in pages if model in (None, page.ground.model)]


def _pages(path: Path, index: RecordIndex) -> Iterator[Page]:
    ground, rows = read_rows(path)
    sets = table_of(ground, rows)
    scored = scored_by(ground, index)
    for k in sorted({len(row.layers) for row in rows}):
        try:
            scores = scores_of(sets, k)
        except ConfigError:  # a single set
            continue
        drawn = bootstrap(scores)
        found = rules(ground, k, scored)
        if k > 1:
            alone: list[tuple[int, ...]] = []
            with suppress(ConfigError):  # not every layer was trained alone
                alone.append(auto(sets, k))
            found.append(Rule("auto", "Best alone (trains L runs)", tuple(alone)))
        lines = [(rule, _placed(rule, scores, drawn)) for rule in found]
        lines.sort(key=lambda line: -line[1].percentile if line[1] else 1.0)
        lacking = tuple(_lacking(ground, scores, lacking_scorers(scored), k > 1 and not alone))
        yield Page(f"{path.stem}-k{k}", ground, scores, tuple(lines), lacking)


def _placed(rule: Rule, scores: Scores, drawn: Array) -> Placed | None:
    """Place a rule; one that draws, among those of its sets that were trained."""
    there = [layers for layers in rule.sets if layers in scores.sets]
    return placed(scores, there, drawn) if there else None


def _lacking(ground: Ground, scores: Scores, scorers: Sequence[str], alone: bool) -> Iterator[Footer]:
    """Yield the commands whose runs are lacking."""
    of, k = f"model={ground.model} task={ground.task}", len(scores.sets[0])
    sweep = f"python run.py -m hydra/sweeper=landscape {of} seed={','.join(map(str, scores.seeds))}"
    if len(scores.sets) < comb(ground.num_layers, k):
        yield Footer("Sets still to be trained, with the other words that filled it", f"{sweep} k={k}", True)
    if scorers:
        command = f"python run.py -m {of} method={','.join(scorers)} stage=score scoring.examples=1000"
        keep = f"cp outputs/records/{ground.model}-{ground.task}-*.json results/scores/"
        yield Footer("Scores that no record tells", f"{command} && {keep}", True)
    if alone:
        yield Footer("Each layer alone, for auto, with the other words that filled it", f"{sweep} k=1", True)


def _sheet(page: Page, records: Mapping[str, str]) -> Sheet:
    """Return the table of a page; `records` says where each record lies."""
    rows = []
    for rule, at in page.rules:
        shown = " ".join(map(str, rule.sets[0])) if len(rule.sets) == 1 else "drawn" if rule.sets else "—"
        run = ((rule.run_id, records[rule.run_id]),) if rule.run_id in records else ()
        numbers = ["—"] * 4
        if at is not None:
            lost = "—" if at.regret is None else _points(at.regret, 2)
            spread = f"{printed(at.low, 1)} to {printed(at.high, 1)}"
            numbers = [_points(at.score, 2), printed(at.percentile, 1), spread, lost]
        lines = [Line(shown, runs=run), *map(Line, numbers)]
        if at is None:
            lines = [replace(line, state="missing") for line in lines]
        rows.append(SheetRow(f"{rule.title} ({rule.name})", "", tuple((line,) for line in lines)))
    return Sheet(
        name=page.name,
        title=page.title,
        caption=_caption(page),
        columns=tuple((title, ()) for title in COLUMNS),
        rows=tuple(rows),
        legend=LEGEND,
        footnotes=(),
        notes=tuple(_sentences(page)),
        footers=page.lacking,
        gaps=sum(at is None for _, at in page.rules),
        is_empty=False,
    )


def _caption(page: Page) -> str:
    """Say what was trained."""
    ground, scores = page.ground, page.scores
    seeds = f"seed{'s' if len(scores.seeds) > 1 else ''} {', '.join(map(str, scores.seeds))}"
    return (
        f"{len(scores.sets)} of {comb(ground.num_layers, page.k)} sets, {seeds}; rate "
        f"{ground.learning_rate:g}; data: {ground.data.status}, {ground.data.counts['train']} training rows."
    )


def _named(sets: Iterable[tuple[int, ...]]) -> str:
    """Return the names of sets of layers in a sentence."""
    return " and ".join(f"layers {', '.join(map(str, layers))}" for layers in sets) or "none"


def _sentences(page: Page) -> Iterator[str]:
    """Say how much there is to gain, whether layers add up, and what does not enter."""
    ground, scores, means = page.ground, page.scores, page.scores.means
    if missing := comb(ground.num_layers, page.k) - len(scores.sets):
        yield f"Incomplete, {missing} sets still to be trained: whatever stands here is of the others alone."
    best = ", ".join(map(str, scores.sets[int(means.argmax())]))
    yield f"{ground.metric} of {_points(means.min())} to {_points(means.max())}; highest: layers {best}."
    known = [(rule.name, at) for rule, at in page.rules if at is not None]
    four = [f"{name} {printed(at.percentile, 0)}" for name, at in known if name in STRATEGIES]
    above = dict.fromkeys(at.layers for _, at in known if at.low > 50 and at.layers)
    below = dict.fromkeys(at.layers for _, at in known if at.high < 50 and at.layers)
    yield (
        f"Percentiles of the paper's four, where a random set has 50: {', '.join(four) or 'not known'}. Of "
        f"the sets that rules take, the interval lies above 50 for {_named(above)}, below it for "
        f"{_named(below)}."
    )
    found = gain(scores)
    spread = f"Standard deviation over sets: {_points(found.sets, 2)}"
    if found.seeds is not None and found.real is not None:
        spread += (
            f"; over seeds of one set: {_points(found.seeds, 2)}; over sets, what seeds explain taken away: "
            f"{_points(found.real, 2)}"
        )
    if found.agreement is not None:
        spread += f". Two seeds agree by r = {printed(found.agreement, 2)}"
    yield f"{spread}."
    if len(scores.seeds) == 1:
        yield "One seed: no regret can be told, and what lies apart may be noise of training."
    if scores.metric not in RESAMPLED:
        yield "The answers to the evaluation rows do not enter: intervals are over seeds alone."
    if (model := additive(scores, ground.num_layers)) is not None and page.k > 1:
        layers = sorted(range(ground.num_layers), key=lambda layer: -model.effects[layer])
        values = ", ".join(f"{layer + 1}: {_points(model.effects[layer], 2, '+')}" for layer in layers)
        yield (
            f"A sum of layer values explains {printed(100 * model.share, 0)} % of the variance over sets "
            f"(adjusted). What a layer adds beside an average one: {values}."
        )


def correlations(pages: Sequence[Page]) -> list[str]:
    """Say of every two landscapes of one model and size whether the order of sets is the same."""
    said = []
    for one, other in combinations(pages, 2):
        if (one.ground.model, one.k) != (other.ground.model, other.k) or one.ground.task == other.ground.task:
            continue
        sides = [dict(zip(page.scores.sets, page.scores.means, strict=True)) for page in (one, other)]
        shared = [layers for layers in sides[0] if layers in sides[1]]
        here, there = ([float(side[layers]) for layers in shared] for side in sides)
        if len(shared) > 2 and not isnan(found := rank_correlations(here, there)[0]):
            rank = 1 + sum(value > there[here.index(max(here))] for value in there)
            tasks = [choice_title("task", page.ground.task) for page in (one, other)]
            said.append(
                f"{model_title(one.ground.model)}, k = {one.k}: {' and '.join(tasks)} order {len(shared)} "
                f"sets alike by {printed(found, 2)} (Spearman); the best of {tasks[0]} is number {rank} on "
                f"{tasks[1]}."
            )
    return said


def _csv(page: Page) -> str:
    """Return a line per rule, numbers at full precision."""
    numbers = ("score", "percentile", "low", "high", "regret")  # of Placed
    return csv_of(
        [
            {"rule": rule.name, "title": rule.title}
            | {"layers": " ".join(map(str, rule.sets[0])) if len(rule.sets) == 1 else ""}
            | {name: getattr(at, name, None) for name in numbers}
            | {"scores_from": rule.run_id}
            for rule, at in page.rules
        ]
    )


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
    spread = [lowest + (np.linspace(-SIDE, SIDE, n) if n > 1 else np.zeros(1)) for lowest, n in groups]
    return np.concatenate(spread)


def _points(value: float, decimals: int = 1, sign: str = "") -> str:
    return printed(100 * float(value), decimals, sign)
