"""The file of a landscape: one line of what its sets of layers share, and one of what each has reached.

`results/landscapes/<model>-<task>-<hash8>.jsonl`. The hash covers all that can change a number except layers
and seed, so that one file holds sets that compare. It is rewritten whole under a lock, in the order of its
sets: many processes add to it, and what it holds does not depend on which came first. An installed package
carries the files of the checkout it was built from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from layertune.config import RunConfig
from layertune.config.files import lock_of, locked, write_atomic
from layertune.config.identity import data_key, identity_of_run, sha256_of, weights_key
from layertune.errors import RecordError
from layertune.records.record import (
    Amount,
    ChecksRecord,
    Count,
    DataRecord,
    Number,
    Plain,
    Positive,
    Record,
    VersionsRecord,
    jsonable,
)
from layertune.records.store import versions_of

SCHEMA = 1
FOLDER = "landscapes"  # in a folder of results
SHIPPED = (Path(__file__).parents[1] / FOLDER).resolve()  # in a checkout a link to results/landscapes
Key = tuple[tuple[int, ...], int]  # layers and seed: what tells rows of one file apart


def _ascending(layers: tuple[int, ...]) -> tuple[int, ...]:
    if not layers or list(layers) != sorted(set(layers)):
        raise ValueError("layers are different and ascend")
    return layers


Layers = Annotated[tuple[Positive, ...], AfterValidator(_ascending)]


@dataclass(frozen=True)
class Ground:
    """What all sets of a landscape share."""

    schema: Annotated[int, Field(ge=SCHEMA, le=SCHEMA)]
    model: str
    task: str
    num_layers: Positive
    metric: str  # of the task, the first one
    learning_rate: Amount
    config: dict[str, Plain]  # the identity of the runs, without layers and seed
    weights: str
    versions: VersionsRecord
    data: DataRecord
    gold: tuple[Count, ...] | None = None  # label of each evaluation row; None: not one class per row


@dataclass(frozen=True)
class Row:
    """One set of layers, trained once."""

    layers: Layers  # from 1, ascending
    seed: int
    score: Number  # after the last epoch, a fraction
    best: Number | None  # at the best epoch
    loss: Number  # in training, mean over the last epoch
    seconds: Amount  # of the training loop
    cache_seconds: Amount  # of filling the cache of the layers below, when first filled, and of opening it
    checks: ChecksRecord
    run_id: str
    created_at: str
    git_commit: str | None
    git_dirty: bool | None
    device: str
    # Evaluation rows that were answered wrongly, each with its answer: with `gold`, all predictions.
    wrong: tuple[tuple[Count, Count], ...] | None = None

    @property
    def key(self) -> Key:
        """What tells it from the others."""
        return self.layers, self.seed


def key_of(run: RunConfig) -> Key:
    """Return the key of the row that a run of `method=layers` becomes."""
    return tuple(run.method.options["layers"]), run.seed


def path_of(run: RunConfig) -> Path:
    """Return the file of the landscape that a run of `method=layers` belongs to."""
    shared = _shared(run)
    digest = sha256_of([shared, data_key(run), weights_key(run), dataclasses.asdict(versions_of(run))])[:8]
    return Path(run.results_dir) / FOLDER / f"{run.model.name}-{run.task.name}-{digest}.jsonl"


def _shared(run: RunConfig) -> dict[str, Any]:
    tree = identity_of_run(run)
    del tree["seed"]
    tree["method"].pop("layers", None)
    return tree


@cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_rows(path: Path) -> tuple[Ground, list[Row]]:
    """Read a landscape.

    Raises:
        RecordError: it is not complete and valid.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RecordError(path, f"cannot be read ({error.strerror})") from error
    try:
        if not lines:
            raise RecordError(path, "is empty")
        ground = _adapter(Ground).validate_json(lines[0], strict=True, extra="forbid")
        rows = [_adapter(Row).validate_json(line, strict=True, extra="forbid") for line in lines[1:]]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "a line"
        raise RecordError(path, f"is not a valid landscape: {where}: {first['msg']}") from error
    return ground, rows


def rows_at(path: Path) -> dict[Key, Row]:
    """Return the rows of a landscape that may not be there yet."""
    return {row.key: row for row in read_rows(path)[1]} if path.is_file() else {}


def add_row(path: Path, ground: Ground, row: Row) -> None:
    """Put one set into a file; a row of the same layers and seed is replaced.

    Raises:
        RecordError: the file there is damaged, or is of other rows or weights.
    """
    with locked(lock_of(path)):
        rows = {}
        if path.is_file():
            there, known = read_rows(path)
            if dataclasses.replace(there, gold=None) != dataclasses.replace(ground, gold=None):
                raise RecordError(path, "holds runs on other data, weights or settings than this one")
            ground = there if ground.gold is None else ground
            rows = {one.key: one for one in known}
        before = rows.get(row.key)
        if before is not None and before.run_id == row.run_id and row.wrong is None:
            return  # the record was there already, and its predictions are known
        rows[row.key] = row
        ordered = [rows[key] for key in sorted(rows, key=lambda key: (len(key[0]), key))]
        lines = [
            jsonable(dataclasses.asdict(ground)),
            *(jsonable(dataclasses.asdict(one)) for one in ordered),
        ]
        text = [json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines]
        write_atomic(path, "".join(text).encode())


def entries_of(
    run: RunConfig, record: Record, answers: Sequence[int] | None, gold: Sequence[int] | None
) -> tuple[Ground, Row]:
    """Turn the record of a finished run into the lines of a landscape.

    Args:
        run: of `method=layers`.
        record: its record.
        answers: its prediction for each evaluation row; None where they are not known.
        gold: the labels of those rows.
    """
    training, data, selection = record.training, record.data, record.selection
    assert training is not None and data is not None and selection is not None and record.checks is not None
    assert selection.layers is not None
    metric, score = record.headline("last")
    assert score is not None, f"{record.run_id} has no {metric}"
    plain = _adapter(dict[str, Plain])  # as the file is read back: lists as tuples
    ground = Ground(
        schema=SCHEMA,
        model=run.model.name,
        task=run.task.name,
        num_layers=run.model.num_layers,
        metric=metric,
        learning_rate=training.learning_rate,
        config=plain.validate_json(json.dumps(_shared(run))),
        weights=record.weights,
        versions=record.versions,
        data=data,
        gold=None if gold is None or answers is None else tuple(map(int, gold)),
    )
    wrong = None
    if ground.gold is not None and answers is not None:
        pairs = zip(answers, ground.gold, strict=True)
        wrong = tuple((row, int(answer)) for row, (answer, label) in enumerate(pairs) if answer != label)
    row = Row(
        layers=selection.layers,
        seed=run.seed,
        score=score,
        best=record.headline("best")[1],
        loss=float(training.history[-1]["loss"]),
        seconds=training.seconds,
        cache_seconds=training.cache.seconds,
        checks=record.checks,
        run_id=record.run_id,
        created_at=record.created_at,
        git_commit=record.identity.git_commit,
        git_dirty=record.identity.git_dirty,
        device=record.device,
        wrong=wrong,
    )
    return ground, row
