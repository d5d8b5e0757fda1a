"""Numbers made up for a claim, so that by its words it holds or does not, and the records that carry them.

Each kind of claim has its own construction, worked out from what the claim says and not from the code under
test. Numbers are in printed units; rivals stand at 50, and what should be better at 60. The seeds of a cell
are alike, so that whatever differs does so beyond noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from made_records import made

from layertune.config import RunConfig
from layertune.records import Record
from layertune.report.paper_claims import Claim, ClaimColumn
from layertune.report.request import Request
from layertune.report.spec import Cell

STRATEGIES = ["high_k", "low_k", "block_high", "block_low"]
PARTS = {
    "ours_best": STRATEGIES,
    "ours_mean": STRATEGIES,
    "io": ["io_low_k", "io_high_k"],
    "best:high_k+low_k": ["high_k", "low_k"],
}
SCALE = {"nist": 1.0, "cider": 1.0}  # other metrics are fractions in records
Key = tuple[str, str, str, str]  # row, task, metric, model


class World:
    """Numbers by row, task, metric and model; a derived row is given through its parts, all alike."""

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.numbers: dict[Key, float] = {}
        self.spread = 0.0  # standard deviation over the three seeds

    def put(self, row: str, number: float, *columns: ClaimColumn) -> None:
        for column in columns or self.claim.columns:
            for part in PARTS.get(row, [row]):
                self.numbers[part, column.task, column.metric, column.model] = number

    def records(self, request: Request, *, without: tuple[str, int] | None = None) -> list[Record]:
        """Return a record for every run that carries a number, but for one row's seed where asked."""
        carried: dict[str, tuple[RunConfig, dict[str, Any]]] = {}
        for table in self.claim.tables:
            spec = request.table(f"table{table}" if isinstance(table, int) else table)
            for cell in spec.cells():
                for one in () if cell.parts else self._numbers(cell, spec.paper_model):
                    for run, facts in self._facts(cell, one):
                        if (cell.row.name, run.seed) != without:
                            known = carried.setdefault(run.config_sha256, (run, {"metrics": {}}))[1]
                            for evaluation, scores in facts.pop("metrics", {}).items():
                                known["metrics"].setdefault(evaluation, {}).update(scores)
                            known |= facts
        return [
            made(run, **facts, parameters=10**12, run_id=f"{run.task.name}-{run.method.name}-{key[:12]}")
            for key, (run, facts) in carried.items()
        ]

    def _numbers(self, cell: Cell, paper_model: str) -> Iterator[float]:
        row, column = cell.row.name, cell.column
        model = paper_model or cell.row.model
        for task in (column.task, "average"):
            if (row, task, column.metric, model) in self.numbers:
                yield self.numbers[row, task, column.metric, model]
                return

    def _facts(self, cell: Cell, number: float) -> Iterator[tuple[RunConfig, dict[str, Any]]]:
        column = cell.column
        for run, sign in zip(cell.own_runs(), (-1, 0, 1), strict=True):
            value = number + sign * self.spread
            if column.metric == "speedup":
                yield run, {"step": 1 / value}
            elif column.metric == "trainable_parameters":
                yield run, {"trainable": {"backbone": round(value * 1e6), "head": 0, "added": 0}}
            else:
                fraction = value * SCALE.get(column.metric, 0.01)
                known = {column.evaluation: {column.metric: fraction}}
                yield run, {"metrics": known}
        if column.metric == "speedup" and cell.reference is not None:
            yield from ((run, {"step": 1.0}) for run in cell.reference.own_runs())


def rows_of(claim: Claim) -> list[str]:
    """Return the rows that a claim speaks for."""
    return claim.operands["rows"] if "rows" in claim.operands else [claim.operands["row"]]


def over_of(claim: Claim) -> list[str]:
    """Return the rows that it compares them with."""
    over = claim.operands["over"]
    return [over] if isinstance(over, str) else over


def outperforms(claim: Claim, world: World, holds: bool) -> None:
    """All better; to fail one is worse once, or where nearly all suffice, half of them everywhere."""
    for other in over_of(claim):
        world.put(other, 50)
    for row in rows_of(claim):
        world.put(row, 40 if claim.operands.get("lower_is_better") else 60)
    if not holds and "share" in claim.operands:
        for row in rows_of(claim)[:2]:
            world.put(row, 49)
    elif not holds:
        world.put(rows_of(claim)[0], 51 if claim.operands.get("lower_is_better") else 49, claim.columns[-1])


def difference(claim: Claim, world: World, holds: bool) -> None:
    """A hundredth more than the stated margin; to fail the first row is so much short in the last column."""
    given = claim.operands["at_least"]
    margins = given if isinstance(given, list) else [given] * len(claim.columns)
    for other in over_of(claim):
        world.put(other, 50)
    for row in rows_of(claim):
        for column, margin in zip(claim.columns, margins, strict=True):
            world.put(row, 50 + margin + 0.01, column)
    short = rows_of(claim)[1:] if claim.operands.get("quantifier") == "some" else []
    for row in short if holds else [rows_of(claim)[0], *short]:
        world.put(row, 50 + margins[-1] - 0.01, claim.columns[-1])


def largest_difference(claim: Claim, world: World, holds: bool) -> None:
    """A lead of 1 everywhere and once 3.2, which rounds to the stated 3; 3.6 rounds to 4."""
    assert (claim.operands["equals"], claim.operands["decimals"]) == (3, 0)
    world.put(claim.operands["over"], 50)
    world.put(claim.operands["row"], 51)
    world.put(claim.operands["row"], 53.2 if holds else 53.6, claim.columns[0])


def difference_of_row_averages(claim: Claim, world: World, holds: bool) -> None:
    """The first row averages 60, the others less; rivals further behind than stated, or the last closer."""
    given = claim.operands["at_least"]
    margins = given if isinstance(given, list) else [given] * len(over_of(claim))
    for row in rows_of(claim):
        world.put(row, 55)
    world.put(rows_of(claim)[0], 60)
    for other, margin in zip(over_of(claim), margins, strict=True):
        world.put(other, 59.9 - margin)
    if not holds:
        world.put(over_of(claim)[-1], 60.1 - margins[-1])


def best_of_rows(claim: Claim, world: World, holds: bool) -> None:
    """Best everywhere, or on average although last in one column; to fail last in one, or on average."""
    row = claim.operands["row"]
    for other in over_of(claim):
        world.put(other, 50)
    if claim.operands.get("average"):
        world.put(row, 60 if holds else 49)
        world.put(row, 49, claim.columns[0])
        return
    lower = claim.operands.get("lower_is_better")
    world.put(row, 40 if lower else 60)
    if not holds:
        world.put(row, 51 if lower else 49, claim.columns[-1])


def count_wins(claim: Claim, world: World, holds: bool) -> None:
    """As many data sets as stated, E2E by three of its five metrics; to fail the first row has one less."""
    tasks = list(dict.fromkeys(column.task for column in claim.columns))[::-1]
    for other in over_of(claim):
        world.put(other, 50)
    for row in rows_of(claim):
        world.put(row, 50)
        fewer = 0 if holds or row != rows_of(claim)[0] else 1
        for task in tasks[: claim.operands["at_least"] - fewer]:
            own = [column for column in claim.columns if column.task == task]
            world.put(row, 60, *own[: 3 if task == "e2e" else 1])


def ranking(claim: Claim, world: World, holds: bool) -> None:
    """Half a point up (or down) from each row to the next; to fail the last one falls back to the first."""
    step = -0.5 if claim.operands.get("order") == "falling" else 0.5
    for index, row in enumerate(rows_of(claim)):
        world.put(row, 20 + step * index)
    if not holds:
        world.put(rows_of(claim)[-1], 20, claim.columns[-1])


def ratio(claim: Claim, world: World, holds: bool) -> None:
    """A quarter, or a fifth."""
    world.put(claim.operands["over"], 100)
    world.put(claim.operands["row"], 25 if holds else 20)


def bounded(claim: Claim, world: World, holds: bool) -> None:
    """A hundredth above or below."""
    world.put(claim.operands["row"], claim.operands["at_least"] + (0.01 if holds else -0.01))


def no_single_best(claim: Claim, world: World, holds: bool) -> None:
    """A column for each of the four; to fail the first row is never behind."""
    for row, column in zip(rows_of(claim), claim.columns, strict=False):
        world.put(row, 50)
        world.put(row, 60, column)
    if not holds:
        world.put(rows_of(claim)[0], 60)


def separated(claim: Claim, world: World, holds: bool) -> None:
    """Best 10 points, or half a point, ahead of the worst, at a standard deviation of one."""
    world.spread = 1.0
    for row in rows_of(claim):
        world.put(row, 50)
    world.put(rows_of(claim)[0], 60 if holds else 50.5)


KINDS: dict[str, Callable[[Claim, World, bool], None]] = {
    function.__name__: function
    for function in (
        outperforms,
        difference,
        largest_difference,
        difference_of_row_averages,
        best_of_rows,
        count_wins,
        ranking,
        ratio,
        bounded,
        no_single_best,
        separated,
    )
}


def world_of(claim: Claim, *, holds: bool) -> World:
    """Return numbers that satisfy a claim, or violate it."""
    world = World(claim)
    KINDS[claim.kind](claim, world, holds)
    return world
