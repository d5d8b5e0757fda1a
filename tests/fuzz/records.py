"""Damaged records: whatever one file in a folder of records holds, everything is built from the others.

Each case spoils one record of a small, complete folder: a value, a key, or the file as a whole. Then the file
is either read as a record or named, with its reason, on the page; tables, page, claims, plan, comparisons and
the numbers behind the figures are built, and no other record is lost. One case in fifty draws the figures.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

from markupsafe import escape
from report.made_records import made

from layertune.config import RunConfig
from layertune.config.compose import plain_run
from layertune.errors import RecipeError, RecordError
from layertune.records import Record, Store
from layertune.records.store import read_folders
from layertune.report.claims import judge_all
from layertune.report.claims_text import to_json, to_text
from layertune.report.figures.cost import cost_content, cost_figure, points_of
from layertune.report.figures.scores import choices_figure, heat_maps, plot_record
from layertune.report.figures.style import save
from layertune.report.figures.sweeps import sweeps
from layertune.report.index import RecordIndex
from layertune.report.layer_scores import between_tasks, kept_scores, model_scores, within_tasks
from layertune.report.paper import load_paper_tables
from layertune.report.paper_claims import load_claims
from layertune.report.plan import Question, lines, make_plan
from layertune.report.recipe import choose, objective
from layertune.report.render.build import sheet_of
from layertune.report.render.formats import to_csv, to_latex, to_markdown
from layertune.report.render.page import Backbone, sentences, to_page
from layertune.report.request import Request
from layertune.report.summary import compare, compare_means, compare_sides, summarise
from layertune.report.values import ReadOut, table_values

from . import in_folders

MODEL = "tiny_bert"
TABLES = ("table4", "table9")
CLAIMS = (
    "choice_follows_the_task",
    "extremes_beat_the_middle",
    "nearly_as_fast_as_lora",
    "fewer_parameters",
    "lora_is_fastest",
)
DRAWN = 0.02  # share of the cases that draw the figures
DEEP = 100_000

Tree = dict[str, Any]


def run(cases: int, seed: int) -> list[str]:
    """Spoil one record per case and build everything."""
    log = logging.getLogger("layertune")
    level = log.level
    log.setLevel(logging.ERROR)  # every case names its file
    try:
        return in_folders(cases, seed, _build)
    finally:
        log.setLevel(level)


def _build(folder: Path, rng: Random, told: list[str]) -> str | None:
    """Spoil one record and build everything from all; return what is wrong, None where it is right."""
    records = _world()
    spoiled = rng.choice(sorted(records))
    path = folder / f"{spoiled}.json"
    FILES[rng.choice(sorted(FILES))](path, records[spoiled], rng, told)
    read, damaged = read_folders(folder)
    others = [record for name, record in records.items() if name != spoiled]
    index = RecordIndex([*others, *read.values()], RecordIndex.read(folder).damaged)
    if len(read) + len(damaged) != len(list(folder.iterdir())):
        return "a file is neither read nor named"
    page = _tables(index, rng.choice(("last", "best")))
    if missing := [line for line in index.damaged if escape(line) not in page]:
        return f"not on the page: {missing[0]}"
    _claims(index)
    _plan(index)
    _comparisons(list(index.records), list(read.values()))
    _figures(index, folder if rng.random() < DRAWN else None)
    return _repeated(path, records[spoiled])


# -- what is built ------------------------------------------------------------------------------------------


def _tables(index: RecordIndex, readout: ReadOut) -> str:
    """Return the page of two tables."""
    asked = replace(_request(), readout=readout)
    values = [table_values(asked.table(name), index, readout) for name in TABLES]
    sheets = [sheet_of(table, asked) for table in values]
    for sheet, table in zip(sheets, values, strict=True):
        for text in (to_markdown(sheet), to_latex(sheet), to_csv(table)):
            text.encode()
    told = Backbone(asked, asked.model, sheets, sentences(values, asked))
    page = to_page([told], index, {record.run_id for table in values for record in table.records})
    page.encode()
    return page


def _claims(index: RecordIndex) -> None:
    claims, paper = _of_the_paper()
    judged = judge_all(claims, paper, _request(), index)
    to_text(judged, _request(), index.damaged).encode()
    to_json(judged, _request()).encode()


def _plan(index: RecordIndex) -> None:
    "\n".join(lines(make_plan(Question(TABLES, _request()), index))).encode()


def _comparisons(records: list[Record], spoiled: list[Record]) -> None:
    for way in (compare, compare_means, partial(compare_sides, differ="train")):
        way(records).encode()
    for record in spoiled:
        summarise(record).encode()
        if record.run is not None:
            objective(record.run, record)
    try:
        choose([record for record in records if record.spec.protocol == "search"], MODEL)
    except RecipeError as sentence:
        str(sentence).encode()


def _figures(index: RecordIndex, drawn_in: Path | None) -> None:
    request = _request()
    scores = model_scores(index, MODEL)
    first = scores.first(scores.by_task)
    between_tasks(first), within_tasks(list(scores.by_task.values()))
    for record in index.records:
        kept_scores(record)
    values = table_values(request.table("cost_cola", cost_content("cola")), index)
    for column in ("seconds", "parameters"):
        points_of(values, column)
    if drawn_in is None:
        return
    figure4 = request.table("figure4")
    figures = [choices_figure(scores), cost_figure(values), sweeps(table_values(figure4, index))]
    figures.append(heat_maps(request.table("figure2"), {MODEL: scores}))
    for number, figure in enumerate(figures):
        save(figure, drawn_in / f"{number}.png")
    for record in read_folders(drawn_in)[0].values():
        if kept_scores(record) is not None:
            plot_record(record, drawn_in / "record.png")


def _repeated(path: Path, record: Record) -> str | None:
    """Ask for the run itself: its record is found, or it is one that cannot be read."""
    run = record.run
    assert run is not None
    store = _At(path)
    try:
        store.find(run)
    except RecordError as sentence:
        text = str(sentence)
        if path.name not in text or "force=true" not in text or "\n" in text:
            return f"no sentence: {text}"
    return None


class _At(Store):
    """A store in which the record of every run is one file."""

    def __init__(self, place: Path) -> None:
        super().__init__()
        self.place = place

    def path(self, run: RunConfig) -> Path:
        return self.place


# -- the folder ---------------------------------------------------------------------------------------------


def _request() -> Request:
    return Request(MODEL)


@cache
def _of_the_paper() -> tuple[list[Any], Any]:
    return [claim for claim in load_claims() if claim.id in CLAIMS], load_paper_tables()


@cache
def _world() -> dict[str, Record]:
    """Return records by run id: of two tables, both modes, scores of three tasks, a search, another model."""
    found: dict[str, Record] = {}
    for number, (run, given) in enumerate(_asked()):
        record = made(run, run_id=f"{run.model.name}-{run.task.name}-{run.method.name}-{number}", **given)
        found[record.run_id] = replace(record, spec=replace(record.spec, overrides=run.overrides))
    return found


def _asked() -> Iterator[tuple[RunConfig, Tree]]:
    request = _request()
    for row, score in (("block_high", 0.9), ("block_low", 0.8), ("block_median", 0.7)):
        for column in ("cola", "sst2"):
            for run in request.table("table9").cell(row, column).own_runs():
                yield run, {"score": score + run.seed / 5000, "best": 0.95}
    for row, step in (("full", 0.5), ("low_k", 0.2), ("lora", 0.25)):
        for column in ("speedup_sst2", "speedup_qnli"):
            for run in request.table("table4").cell(row, column).own_runs()[:2]:
                yield run, {"step": step, "device": "CPU", "threads": 2}
    for mode in ("published", "fast"):
        for seed in (0, 42):
            words = f"model={MODEL} task=cola method=low_k train={mode} seed={seed} train.epochs=3"
            yield plain_run(words.split()), {"score": 0.6 + seed / 1000, "cached": 2.0}
    for task in ("sst2", "trec", "cola"):
        yield plain_run([f"model={MODEL}", f"task={task}", "method=high_k", "stage=score"]), {}
    for rate in (1e-5, 2e-5):
        words = f"model={MODEL} task=cola method=low_k protocol=search train.learning_rate={rate}"
        yield plain_run(words.split()), {"score": 0.5}
    yield plain_run(OTHER), {"status": "failed", "error": "Traceback\nValueError: 7"}


OTHER = ["model=gte_small", "task=trec", "method=full", "train.epochs=3"]


# -- how a record is spoiled --------------------------------------------------------------------------------

VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 10**12, 10**30, -(10**400), 0.0, 0.5, -0.5, 95.0, 1e-320, 1e17, 1e308,
    -1e308, float("nan"), float("inf"), float("-inf"), "", "0.5", "done", "failed", "official", "nope",
    "ü\n\t$a_{", "<b>&\"'", "../../etc", "x" * 10_000, "\x00", "\u2028", "\ud800", "NaN",
    [], {}, [[]], [None], [1, 2, 3], [0.5] * 4, [float("nan")] * 4, {"a": 1}, {"sst2": {"accuracy": 95.0}},
    {"": None}, [{}],
)  # fmt: skip


def _other(rng: Random) -> Any:
    return copy.deepcopy(rng.choice(VALUES))


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container within a tree with each of its keys."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _value(tree: Tree, rng: Random) -> str:
    """Replace one value; sections are as likely as all that lies within them."""
    sections = [section for section in tree.values() if isinstance(section, dict)]
    node, key = rng.choice(list(_places(rng.choice([tree, *sections])) or [(tree, "status")]))
    node[key] = _other(rng)
    return f"{key}={node[key]!r:.30}"


def _swapped(tree: Tree, rng: Random) -> str:
    places = list(_places(tree))
    (one, key), (other, name) = rng.choice(places), rng.choice(places)
    one[key] = json.loads(json.dumps(other[name]))
    return f"{key} is {name}"


def _gone(tree: Tree, rng: Random) -> str:
    node, key = rng.choice(list(_places(tree)))
    del node[key]
    return f"no {key}"


def _more(tree: Tree, rng: Random) -> str:
    sections = [tree, *(section for section in tree.values() if isinstance(section, dict))]
    rng.choice(sections)[rng.choice(("new", "accuracy", "epoch", "run"))] = _other(rng)
    return "another key"


def _without_section(tree: Tree, rng: Random) -> str:
    name = rng.choice(("env", "data", "model", "selection", "training", "metrics", "checks", "tracking"))
    tree[name] = None
    return f"{name} is null"


def _score(tree: Tree, rng: Random) -> str:
    """Put something among the metrics, the scores or the costs: what tables read."""
    value = _other(rng)
    selection, training, metrics = (tree[name] or {} for name in ("selection", "training", "metrics"))
    places = [(selection, key) for key in ("scores", "std", "matrix", "layers", "examples", "seconds")]
    places += [(training, key) for key in training]
    places += [(scores, key) for scores in (metrics.get("last") or {}).values() for key in [*scores, "loss"]]
    places += [(metrics.get("best") or {}, key) for key in ("epoch", *(metrics.get("best") or {}))]
    node, key = rng.choice(places)
    node[key] = value
    return f"{key}={value!r:.30}"


def _alike(tree: Tree, rng: Random) -> str:
    """Put values of the same kind in place of some: most of them are read, and everything must stand them."""
    sections = [section for name, section in tree.items() if isinstance(section, dict) and name != "config"]
    said = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        leaves = [
            (node, key)
            for node, key in _places(rng.choice([tree, *sections]))
            if not isinstance(node[key], dict | list)
        ]
        if leaves:
            node, key = rng.choice(leaves)
            node[key] = _like(node[key], rng)
            said.append(f"{key}={node[key]!r:.20}")
    return " ".join(said)


def _like(value: Any, rng: Random) -> Any:
    if isinstance(value, bool):
        return rng.choice((not value, None))
    if isinstance(value, int):
        return rng.choice((0, 1, 2, value + 1, 10 * value, 10**17, None))
    if isinstance(value, float):
        return rng.choice((0.0, 1.0, 0.5, 1e-12, value / 3, 1e17, None))
    return rng.choice(
        ("", "failed", "interrupted", "score", "run", "local", "$a_{", "ü\n<b>", "sst2", "x", None)
    )


def _other_layers(tree: Tree, rng: Random) -> str:
    """Give the scores another number of layers, or one value for all."""
    selection = tree["selection"]
    count = rng.choice((1, 2, 3, 5, 24))
    same = rng.choice((None, 0.0, 0.5, 1e17))
    scores = [same if same is not None or rng.random() < 0.1 else rng.random() for _ in range(count)]
    selection |= {"scores": scores, "std": scores, "matrix": rng.choice((None, [scores] * count))}
    return f"{count} layers"


TREES = (_alike, _alike, _alike, _value, _value, _score, _score, _swapped, _gone, _more, _without_section)
TREES += (_other_layers,)


def _spoiled(path: Path, record: Record, rng: Random, told: list[str]) -> None:
    tree = json.loads(record.to_json())
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        try:
            told.append(rng.choice(TREES)(tree, rng))
        except (AttributeError, KeyError, TypeError, IndexError):  # what an earlier blow left there
            continue
    path.write_text(json.dumps(tree))


def _cut(path: Path, record: Record, rng: Random, told: list[str]) -> None:
    content = record.to_json().encode()
    path.write_bytes(content[: rng.randrange(len(content))])
    told.append("cut off")


def _garbled(path: Path, record: Record, rng: Random, told: list[str]) -> None:
    content = bytearray(record.to_json().encode())
    for _ in range(rng.choice((1, 2, 20))):
        content[rng.randrange(len(content))] = rng.randrange(256)
    path.write_bytes(bytes(content))
    told.append("other bytes")


def _whole(path: Path, record: Record, rng: Random, told: list[str]) -> None:
    text = record.to_json()
    name = rng.choice(("deep", "deep within", "schema", "list", "utf-16", "bom", "empty", "zeros", "twice"))
    told.append(name)
    content = {
        "deep": "[" * DEEP,
        "deep within": text.replace('"error": null', f'"error": {"[" * DEEP}'),
        "schema": text.replace('"schema": 1', '"schema": 99', 1),
        "list": f"[{text}]",
        "utf-16": text,
        "bom": f"\ufeff{text}",
        "empty": "",
        "zeros": "\0" * len(text),
        "twice": text + text,
    }[name]
    path.write_bytes(content.encode("utf-16" if name == "utf-16" else "utf-8"))


def _second(path: Path, record: Record, rng: Random, told: list[str]) -> None:
    """Write the record twice, once under another name and perhaps with another score."""
    record.write(path)
    tree = json.loads(record.to_json())
    _score(tree, rng)
    path.with_name(rng.choice(("a-copy.json", f"{path.stem} (1).json"))).write_text(json.dumps(tree))
    told.append("a second file")


def _no_file(path: Path, record: Record, rng: Random, told: list[str]) -> None:
    kind = rng.choice(("folder", "link"))
    path.mkdir() if kind == "folder" else path.symlink_to("nowhere")
    told.append(kind)


# Most cases change what a record says; the rest the file as a whole.
FILES = {f"spoiled {number}": _spoiled for number in range(7)} | {
    "cut": _cut,
    "garbled": _garbled,
    "whole": _whole,
    "second": _second,
    "no file": _no_file,
}
