"""`make landscape`: where every rule lands, how much there is to gain, which layers matter; table and figure.

What is written depends on the landscapes and records alone. Numbers are percentage points unless a column
says otherwise.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from itertools import combinations
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING

from layertune.config.files import write_atomic
from layertune.errors import ConfigError
from layertune.landscape import Placed, auto, ground_of, placed, scores_of, table_of
from layertune.landscape.figure import landscape_figure
from layertune.landscape.questions import Scores, additive, bootstrap, gain, rank_correlation, regret
from layertune.landscape.rows import FOLDER, read_rows
from layertune.landscape.rules import choices, lacking_scorers
from layertune.report.figures import style
from layertune.report.index import RecordIndex
from layertune.report.rounding import printed
from layertune.report.spec import model_title

if TYPE_CHECKING:
    import pandas

HEAD = (
    "rule", "layers", "score", "percentile", "low", "high", "regret", "method", "scores_from",
)  # fmt: skip
SAID = {
    "score": "mean over seeds, in per cent",
    "percentile": "of the other sets of this size that are worse, in per cent; equals count half",
    "low, high": "95 % interval over seeds and evaluation rows drawn anew, the same for all sets",
    "regret": "what the best set reaches more, chosen on one seed and read on another, in points",
}


@dataclass(frozen=True)
class Page:
    """One landscape at one size of sets."""

    name: str  # of its files
    title: str
    rules: pandas.DataFrame  # HEAD
    sentences: tuple[str, ...]
    scores: Scores
    placed: tuple[tuple[str, Placed], ...]  # by the names of the rules, for the figure
    model: str
    task: str
    k: int
    metric: str


def write_landscapes(results: Path) -> list[Path]:
    """Write every landscape's tables (md, csv), figure and the page; return the files.

    Raises:
        ConfigError: there is no landscape.
        RecordError: one is damaged.
    """
    index = RecordIndex.read(results / "runs", results / "scores")
    pages = [page for path in sorted((results / FOLDER).glob("*.jsonl")) for page in _pages(path, index)]
    if not pages:
        raise ConfigError(
            f"{results / FOLDER} holds no landscape: python run.py -m hydra/sweeper=landscape makes one."
        )
    folder = results / FOLDER
    files = []
    for page in pages:
        files.append(write_atomic(folder / f"{page.name}.csv", page.rules.to_csv(index=False).encode()))
        files.append(write_atomic(folder / f"{page.name}.md", _markdown(page).encode()))
        with style.print_style():
            files += style.save_both(landscape_figure(page), folder, page.name)
    files.append(write_atomic(folder / "index.html", _html(pages).encode()))
    return files


def _pages(path: Path, index: RecordIndex) -> list[Page]:
    sets = table_of(*read_rows(path))
    ground = ground_of(sets)
    pages = []
    for k in sorted(set(sets["k"])):
        if (sets["k"] == k).sum() < 2:
            continue
        scores = scores_of(sets, int(k))
        drawn = bootstrap(scores)
        lines, marks = [], []
        for choice in _rules(sets, int(k), index):
            name, title, layers, run_id = choice
            if layers is None:
                mean = float(scores.means.mean())
                lines.append(_line(title, "any", mean, 50.0, None, None, regret(scores, None), name, run_id))
            elif layers in scores.sets:
                at = placed(scores, layers, drawn)
                shown = " ".join(map(str, layers))
                lines.append(
                    _line(title, shown, at.score, at.percentile, at.low, at.high, at.regret, name, run_id)
                )
                marks.append((name, at))
        table = _frame(lines).sort_values("percentile", ascending=False, kind="stable")
        title = (
            f"{model_title(ground.model)} on {ground.task}: every set of {k} of {ground.num_layers} layers"
        )
        pages.append(
            Page(
                name=f"{path.stem}-k{k}",
                title=title,
                rules=table,
                sentences=tuple(_sentences(sets, scores, index)),
                scores=scores,
                placed=tuple(marks),
                model=ground.model,
                task=ground.task,
                k=int(k),
                metric=ground.metric,
            )
        )
    return pages


def _rules(
    sets: pandas.DataFrame, k: int, index: RecordIndex
) -> list[tuple[str, str, tuple[int, ...] | None, str]]:
    ground = ground_of(sets)
    found = [(one.method, one.title, one.layers, one.run_id) for one in choices(ground, k, index)]
    if k > 1:
        with suppress(ConfigError):  # no layer was trained alone
            found.append(("auto", "Best alone (trains L runs)", auto(sets, k), ""))
    return found


def _line(
    title: str,
    layers: str,
    score: float,
    percentile: float,
    low: float | None,
    high: float | None,
    regret: float | None,
    method: str,
    run_id: str,
) -> list[object]:
    numbers = [None if one is None else float(printed(one, 1)) for one in (percentile, low, high)]
    lost = None if regret is None else float(printed(100 * regret, 2))
    return [title, layers, float(printed(100 * score, 2)), *numbers, lost, method, run_id]


def _frame(lines: Sequence[Sequence[object]]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(lines, columns=list(HEAD))


def _sentences(sets: pandas.DataFrame, scores: Scores, index: RecordIndex) -> list[str]:
    """Say what a landscape holds, how much there is to gain, whether layers add up, and what is lacking."""
    ground = ground_of(sets)
    k, means = len(scores.sets[0]), scores.means
    everything = comb(ground.num_layers, k)
    seeds = ", ".join(map(str, scores.seeds))
    many = f"seed{'s' if len(scores.seeds) > 1 else ''} {seeds}"
    best = int(means.argmax())
    said = [
        f"{len(scores.sets)} of {everything} sets, {many}; {ground.metric} of "
        f"{_points(means.min())} to {_points(means.max())}; highest: layers "
        f"{', '.join(map(str, scores.sets[best]))}.",
        f"Rate {ground.learning_rate:g}; data: {ground.data.status}, "
        f"{ground.data.counts['train']} training rows.",
    ]
    if len(scores.sets) < everything:
        said.append(
            f"Incomplete, {everything - len(scores.sets)} still to be trained: whatever stands here is of "
            "the others alone; the command that filled it goes on."
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
    said.append(f"{spread}.")
    if len(scores.seeds) == 1:
        said.append(
            "One seed: intervals are over evaluation rows alone, no regret can be told, and what lies apart "
            "may be noise of training."
        )
    if scores.right is None:
        said.append("The answers to the evaluation rows do not enter: intervals are over seeds alone.")
    if (model := additive(scores, ground.num_layers)) is not None:
        layers = sorted(range(ground.num_layers), key=lambda layer: -model.effects[layer])
        values = ", ".join(f"{layer + 1}: {_points(model.effects[layer], 2, '+')}" for layer in layers)
        said.append(
            f"A sum of layer values explains {printed(100 * model.share, 0)} % of the variance over sets "
            f"(adjusted). What a layer adds beside an average one: {values}."
        )
    if lacking := lacking_scorers(ground, index):
        said.append(
            f"Rules without a record of their scores are not placed; stage=score "
            f"method={','.join(lacking)} makes them (docs/landscape.md)."
        )
    return said


def _points(value: float, decimals: int = 1, sign: str = "") -> str:
    return printed(100 * float(value), decimals, sign)


def correlations(pages: Sequence[Page]) -> list[str]:
    """Say of every two landscapes of one model and size whether the order of sets is the same."""
    said = []
    for one, other in combinations(pages, 2):
        if (one.model, one.k) != (other.model, other.k) or one.task == other.task or one.k == 1:
            continue
        shared = [layers for layers in one.scores.sets if layers in set(other.scores.sets)]
        sides = [
            [float(page.scores.means[page.scores.sets.index(layers)]) for layers in shared]
            for page in (one, other)
        ]
        if len(shared) > 2 and (found := rank_correlation(*sides)) is not None:
            best = shared[max(range(len(shared)), key=lambda place: sides[0][place])]
            rank = 1 + sum(value > sides[1][shared.index(best)] for value in sides[1])
            said.append(
                f"{model_title(one.model)}, k = {one.k}: {one.task} and {other.task} order {len(shared)} "
                f"sets alike by {printed(found, 2)} (Spearman); the best of {one.task} is number {rank} on "
                f"{other.task}."
            )
    return said


def _shown(table: pandas.DataFrame) -> pandas.DataFrame:
    """Return a table as it is read: a dash for what is not known."""
    shown: pandas.DataFrame = table.astype(object)
    return shown.where(table.notna(), "—")


def _markdown(page: Page) -> str:
    shown = _shown(page.rules)
    lines = [f"# {page.title}", "", f"![{page.title}]({page.name}.png)", ""]
    lines.append(f"| {' | '.join(HEAD)} |")
    lines.append("|:--|:--|" + "--:|" * 5 + ":--|:--|")
    lines += [f"| {' | '.join(map(str, row))} |" for row in shown.itertuples(index=False)]
    lines += ["", *(f"- {sentence}" for sentence in page.sentences)]
    lines += [f"- *{name}*: {text}" for name, text in SAID.items()]
    return "\n".join(lines) + "\n"


def _html(pages: Sequence[Page]) -> str:
    text = io.StringIO()
    text.write(_HEAD)
    for sentence in correlations(pages):
        text.write(f"<p>{escape(sentence)}</p>\n")
    for page in pages:
        text.write(f'<section id="{escape(page.name)}"><h2>{escape(page.title)}</h2>\n')
        text.write(f'<img src="{escape(page.name)}.svg" alt="{escape(page.title)}">\n')
        text.write(_shown(page.rules).to_html(index=False, border=0, float_format="{:g}".format))
        text.write("\n<ul>" + "".join(f"<li>{escape(sentence)}</li>" for sentence in page.sentences))
        text.write("</ul></section>\n")
    said = "".join(f"<dt>{escape(name)}</dt><dd>{escape(words)}</dd>" for name, words in SAID.items())
    text.write(f"<dl>{said}</dl>\n</main></html>\n")
    return text.getvalue()


_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>layertune: landscapes</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #d9dde2; padding: .2rem .6rem; text-align: right }
td:first-child, th:first-child { text-align: left }
img { max-width: 100% }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e6e6e6 } img { background: #fff } }
</style></head><body><main>
<h1>layertune: landscapes</h1>
<p>Every set of k layers was trained once per seed; each rule is placed among them.</p>
"""
