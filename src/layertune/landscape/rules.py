"""Which layers each selection method takes, told by records of layer scores and by position."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from layertune.config.compose import group_choice
from layertune.config.groups import group_names
from layertune.landscape.rows import Ground
from layertune.records.record import Record
from layertune.report.index import RecordIndex
from layertune.selection import SELECTORS, blocks


@dataclass(frozen=True)
class Rule:
    """What one method chooses on one landscape.

    Attributes:
        name: of the method.
        title: as it is printed.
        sets: layers from 1; of several, each is drawn with the same chance. Empty: its scores are not known.
        run_id: of the record of the scores; "" where a position decides.
    """

    name: str
    title: str
    sets: tuple[tuple[int, ...], ...]
    run_id: str = ""


def rules(ground: Ground, k: int, index: RecordIndex) -> list[Rule]:
    """Return what every selection method chooses, in the order of their names.

    Scores are those of records of the same model, weights and task, of the largest sample: every method of
    their scorer follows from them. A method without such a record has no sets; one with a head of its own,
    whose runs are no rows of a landscape, is left out.
    """
    scored = _scored(ground, index)
    found = []
    for name, file in _selections().items():
        record = scored.get(file["scorer"])
        values = None if record is None else _values(record)
        sets: tuple[tuple[int, ...], ...] = ()
        if file["selector"] == "random":
            sets = tuple(combinations(range(1, ground.num_layers + 1), k))
        elif file["selector"] == "block_random":
            sets = tuple(product(*([layer + 1 for layer in one] for one in blocks(ground.num_layers, k))))
        elif values is not None or file["scorer"] is None:
            sets = (SELECTORS[file["selector"]](ground.num_layers, k, values, random.Random(0)),)
        found.append(Rule(name, str(file["title"]), sets, "" if record is None else record.run_id))
    return found


def lacking_scorers(ground: Ground, index: RecordIndex) -> list[str]:
    """Return a method of each scorer of which no record tells the scores, so that a command can name them."""
    known = _scored(ground, index)
    first = {file["scorer"]: name for name, file in reversed(_selections().items()) if file["scorer"]}
    return sorted(method for scorer, method in first.items() if scorer not in known)


def _selections() -> dict[str, Mapping[str, Any]]:
    files = {name: group_choice("method", name) for name in group_names("method")}
    return {
        name: file
        for name, file in files.items()
        if file.get("kind") == "selected" and file.get("head") is None
    }


def _scored(ground: Ground, index: RecordIndex) -> dict[str, Record]:
    """Return the record of the largest sample for each scorer, the last by name of equals."""
    stale = {record.run_id for record in index.stale(trained=False)}
    found: dict[str, tuple[int, str, Record]] = {}
    for scorer, examples, record in _told(ground, index):
        if record.run_id not in stale:
            found[scorer] = max(found.get(scorer, (-1, "", record)), (examples, record.run_id, record))
    return {scorer: record for scorer, (_, _, record) in found.items()}


def _told(ground: Ground, index: RecordIndex) -> Iterator[tuple[str, int, Record]]:
    for record in index.records:
        selection = record.selection
        if (
            record.status == "done"
            and (record.spec.model, record.spec.task) == (ground.model, ground.task)
            and record.weights == ground.weights
            and selection is not None
            and selection.scorer is not None
            and len(_values(record)) == ground.num_layers
            and record.config["task"].get("control", "none") == "none"
            and record.config["scoring"].get("tokens") is None
        ):
            yield selection.scorer, selection.examples, record


def _values(record: Record) -> tuple[float, ...]:
    scores = () if record.selection is None else record.selection.scores or ()
    return tuple(value for value in scores if value is not None)
