"""The paper's claims as data (`results/paper/claims.yaml`) and the judge that applies their predicates.

A claim says which predicate of `paper_checks` it needs and with which operands; no verdict is written down.
The same claim is judged on the paper's own numbers (`paper_numbers`) and on ours.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layertune.errors import ConfigError
from layertune.report.paper import PAPER_FOLDER, PaperTables, paper_value, read_yaml
from layertune.report.paper_checks import PREDICATES
from layertune.report.verdicts import Column, Noise, Numbers, Tally, Verdict, with_derived_rows

_CLAIM = {"id", "section", "says", "kind", "tables", "columns"}
_OPTIONAL = {"erratum", "choice"}
Groups = Mapping[str, list[str]]  # name -> rows, tasks or metrics


@dataclass(frozen=True)
class Claim:
    """One claim of the paper."""

    id: str
    section: str
    says: str  # in our words
    kind: str  # a name in PREDICATES
    tables: tuple[int | str, ...]  # where the paper's numbers stand: 1 to 10, or figure4, figure5
    columns: tuple[Column, ...]
    operands: Mapping[str, Any]  # the predicate's other arguments
    erratum: str | None = None  # id of the erratum about the same sentence
    choice: str | None = None  # what was decided where the sentence leaves it open


def load_claims(folder: Path = PAPER_FOLDER) -> tuple[Claim, ...]:
    """Read `claims.yaml` of `folder`, with the names of groups of rows, tasks and metrics expanded.

    Raises:
        ConfigError: the file is missing or malformed; a predicate is unknown or not made for the operands.
    """
    path = folder / "claims.yaml"
    content = read_yaml(path, "groups", "metrics", "claims")
    claims = tuple(_claim(entry, content["groups"], content["metrics"], path) for entry in content["claims"])
    ids = [claim.id for claim in claims]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise ConfigError(f"{path}: claims with the same id: {', '.join(twice)}")
    return claims


def judge(claim: Claim, value: Numbers, noise: Noise | None = None) -> Verdict:
    """Return what a table of numbers says about a claim; with `noise`, what it says beyond that."""
    return PREDICATES[claim.kind](Tally(value, noise), columns=claim.columns, **claim.operands)


def paper_numbers(paper: PaperTables, tables: Iterable[int | str]) -> Numbers:
    """Return the paper's own numbers as a table of numbers.

    The errata's targets are applied; a printed number that is no target is used as printed: what is judged
    here is whether the paper's tables support its text. Figures print no numbers: their claims stay open.

    Args:
        paper: what `load_paper_tables` returned.
        tables: where to look, in this order; figures are passed over.
    """
    numbered = [table for table in tables if isinstance(table, int)]

    def value(row: str, task: str, metric: str, model: str) -> float | None:
        for table in numbered:
            found = paper_value(paper, table, row, task, metric.removesuffix("_std"), model)
            if found is not None and metric.endswith("_std"):
                return found.std
            if found is not None:
                return found.number.value if found.value is None else found.value
        return None

    return with_derived_rows(value)


def _claim(entry: dict[str, Any], groups: Groups, metrics: Mapping[str, str], path: Path) -> Claim:
    """Return one entry of claims.yaml."""
    where = f"{path}: {entry.get('id', 'a claim without id')}"
    if missing := _CLAIM - set(entry):
        raise ConfigError(f"{where} lacks {', '.join(sorted(missing))}")
    kind = entry["kind"]
    if kind not in PREDICATES:
        raise ConfigError(f"{where}: unknown kind {kind!r}; known: {', '.join(PREDICATES)}")
    operands = {key: entry[key] for key in entry if key not in _CLAIM | _OPTIONAL}
    for key in ("rows", "over"):
        if isinstance(operands.get(key), list):
            operands[key] = _expand(operands[key], groups)
    try:
        inspect.signature(PREDICATES[kind]).bind(None, columns=(), **operands)
    except TypeError as error:
        raise ConfigError(f"{where}: {kind} cannot be asked like this: {error}") from error
    columns = [column for part in entry["columns"] for column in _columns(part, groups, metrics, where)]
    return Claim(
        id=entry["id"],
        section=entry["section"],
        says=entry["says"],
        kind=kind,
        tables=tuple(entry["tables"]),
        columns=tuple(columns),
        operands=operands,
        erratum=entry.get("erratum"),
        choice=entry.get("choice"),
    )


def _columns(
    part: dict[str, Any], groups: Groups, metrics: Mapping[str, str], where: str
) -> Iterable[Column]:
    """Yield the columns models x tasks x metrics; without `metrics`, a task's metric is the printed one."""
    if set(part) - {"models", "tasks", "metrics"} or "tasks" not in part:
        raise ConfigError(f"{where}: a column has tasks, and may have metrics and models; got {part}")
    for model in _expand(part.get("models", ["bert"]), groups):
        for task in _expand(part["tasks"], groups):
            if "metrics" not in part and task not in metrics:
                raise ConfigError(f"{where}: no metric given for {task}; name it under `metrics:`")
            for metric in _expand(part["metrics"] if "metrics" in part else [metrics[task]], groups):
                yield Column(task, metric, model)


def _expand(names: Iterable[str], groups: Groups) -> list[str]:
    """Replace the names of groups by their members."""
    return [member for name in names for member in groups.get(name, [name])]
