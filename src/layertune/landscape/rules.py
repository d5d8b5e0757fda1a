"""Which layers each selection method takes, told by records of layer scores and by position."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

from layertune.config.compose import group_choice
from layertune.config.groups import group_names
from layertune.landscape.rows import Ground
from layertune.records.record import Record
from layertune.report.index import RecordIndex
from layertune.selection import SELECTORS

DRAWN = ("random", "block_random")  # their layers differ from seed to seed


@dataclass(frozen=True)
class Choice:
    """What one method chooses on one landscape."""

    method: str
    title: str
    layers: tuple[int, ...] | None  # None: each set is as likely as any other
    run_id: str = ""  # the record of the scores; "" where a position decides


def choices(ground: Ground, k: int, index: RecordIndex) -> list[Choice]:
    """Return what every selection method chooses, `random_k` first.

    Scores are those of records of the same model, weights and task, of the largest sample: every method of
    their scorer follows from them. A method without such a record is left out; so is one with a head of its
    own, whose runs are no rows of a landscape.
    """
    scored = _scores(ground, index)
    found = []
    for name in sorted(group_names("method"), key=lambda name: name != "random_k"):
        file = group_choice("method", name)
        if file.get("kind") != "selected" or file.get("head") is not None:
            continue
        scorer, selector, title = file.get("scorer"), file["selector"], str(file["title"])
        if selector in DRAWN:
            if selector == "random":
                found.append(Choice(name, title, None))
            continue
        record = scored.get(scorer) if scorer else None
        if scorer and record is None:
            continue
        values = None if record is None else _values(record)
        layers = SELECTORS[selector](ground.num_layers, k, values, random.Random(0))
        found.append(Choice(name, title, layers, "" if record is None else record.run_id))
    return found


def lacking_scorers(ground: Ground, index: RecordIndex) -> list[str]:
    """Return a method of each scorer of which no record tells the scores, so that a command can name them."""
    known = _scores(ground, index)
    files = {name: group_choice("method", name) for name in group_names("method")}
    first: dict[str, str] = {}
    for name, file in files.items():
        if file.get("kind") == "selected" and file.get("scorer"):
            first.setdefault(str(file["scorer"]), name)
    return [method for scorer, method in first.items() if scorer not in known]


def _scores(ground: Ground, index: RecordIndex) -> dict[str, Record]:
    """Return the record of the largest sample for each scorer, the newest of equals."""
    stale = {record.run_id for record in index.stale(trained=False)}
    found: dict[str, Record] = {}
    for record in sorted(_told(ground, index.records), key=lambda record: (_examples(record), record.run_id)):
        if record.run_id not in stale:
            assert record.selection is not None and record.selection.scorer is not None
            found[record.selection.scorer] = record
    return found


def _told(ground: Ground, records: Iterable[Record]) -> Iterable[Record]:
    for record in records:
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
            yield record


def _values(record: Record) -> tuple[float, ...]:
    selection = record.selection
    scores = () if selection is None else selection.scores or ()
    return tuple(value for value in scores if value is not None)


def _examples(record: Record) -> int:
    return 0 if record.selection is None else record.selection.examples
