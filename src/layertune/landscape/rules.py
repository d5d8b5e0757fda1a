"""Which layers each selection method takes, told by records of layer scores and by position."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from layertune.config.compose import group_choice
from layertune.config.groups import group_names
from layertune.config.names import resolve_name
from layertune.landscape.rows import Ground
from layertune.records.record import Record
from layertune.report.index import RecordIndex
from layertune.report.spec import choice_title
from layertune.selection import SELECTORS, blocks


@dataclass(frozen=True)
class Rule:
    """What one method chooses on one landscape."""

    name: str  # of the method
    title: str  # as it is printed
    sets: tuple[tuple[int, ...], ...]  # each drawn with the same chance; none: its scores are not known
    run_id: str = ""  # of the record of the scores; "" where a position decides


def rules(ground: Ground, k: int, scored: Mapping[str, Record]) -> list[Rule]:
    """Return what every selection method chooses, in the order of their names.

    A method whose scorer has no record has no sets; one with a head of its own, whose runs are no rows of a
    landscape, is left out.

    Args:
        ground: of the landscape.
        k: layers of a set.
        scored: of `scored_by`.
    """
    found = []
    for name, file in _selections().items():
        scorer = file.get("scorer")
        record = scored.get(scorer) if scorer else None
        values = None if record is None else _values(record)
        sets: tuple[tuple[int, ...], ...] = ()
        if file["selector"] == "random":
            sets = tuple(combinations(range(1, ground.num_layers + 1), k))
        elif file["selector"] == "block_random":
            sets = tuple(product(*([layer + 1 for layer in one] for one in blocks(ground.num_layers, k))))
        elif values is not None or scorer is None:
            select = resolve_name(file["selector"], SELECTORS, "method.selector")
            sets = (select(ground.num_layers, k, values, random.Random(0)),)
        found.append(Rule(name, choice_title("method", name), sets, "" if record is None else record.run_id))
    return found


def lacking_scorers(scored: Mapping[str, Record]) -> list[str]:
    """Return a method of each scorer of which no record tells the scores, so that a command can name them."""
    first = {file.get("scorer"): name for name, file in reversed(_selections().items())}
    return sorted(method for scorer, method in first.items() if scorer and scorer not in scored)


def _selections() -> dict[str, Mapping[str, Any]]:
    files = {name: group_choice("method", name) for name in group_names("method")}
    return {
        name: file
        for name, file in files.items()
        if file.get("kind") == "selected" and file.get("head") is None
    }


def scored_by(ground: Ground, index: RecordIndex) -> dict[str, Record]:
    """Return the record of each scorer's scores: of the same model, weights and task, and of the largest
    sample, the last by name of equals. Every method of the scorer follows from it.
    """
    stale = {record.run_id for record in index.stale(trained=False)}
    told = sorted(
        (selection.examples, record.run_id, selection.scorer, record)
        for record in index.records
        if (selection := record.selection) is not None
        if selection.scorer is not None
        and record.status == "done"
        and record.run_id not in stale
        and (record.spec.model, record.spec.task) == (ground.model, ground.task)
        and record.weights == ground.weights
        and len(_values(record)) == ground.num_layers
        and record.config["task"].get("control", "none") == "none"
        and record.config["scoring"].get("tokens") is None
    )
    return {scorer: record for _, _, scorer, record in told}


def _values(record: Record) -> tuple[float, ...]:
    scores = () if record.selection is None else record.selection.scores or ()
    return tuple(value for value in scores if value is not None)
