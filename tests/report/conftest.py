"""Fixtures of the paper's numbers: tables.csv read as exact decimals, apart from the code under test."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path

import pytest
from made_records import Says, write

from layertune.records import Record
from layertune.report.index import RecordIndex
from layertune.report.paper import Erratum, PaperTables, load_errata, load_paper_tables
from layertune.report.spec import Cell
from layertune.report.values import CellValue, ReadOut, aggregate

SINGLE = ["sst2", "sst5", "mr", "cr", "mpqa", "subj", "trec", "cola"]
Key = tuple[int, str, str, str, str]  # table, row, task, metric, model


class Printed:
    """tables.csv as decimals: exact arithmetic on what is printed."""

    def __init__(self, path: Path) -> None:
        self.mean: dict[Key, Decimal] = {}
        self.std: dict[Key, Decimal] = {}
        with path.open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                key = (int(line["table"]), line["row"], line["task"], line["metric"], line["model"])
                self.mean[key] = Decimal(line["value"])
                if line["std"]:
                    self.std[key] = Decimal(line["std"])

    def __call__(
        self, table: int, row: str, task: str, metric: str | None = None, model: str | None = None
    ) -> Decimal:
        """Return the one number that fits."""
        wanted = (table, row, task, metric, model)
        fits = [
            value
            for key, value in self.mean.items()
            if all(part in (None, own) for part, own in zip(wanted, key, strict=True))
        ]
        assert len(fits) == 1, wanted
        return fits[0]

    def task(self, row: str, task: str) -> Decimal:
        """Return a number of Table 1 or 2."""
        return self(1 if task in SINGLE else 2, row, task)

    def exact(self, row: str, tasks: list[str]) -> Decimal:
        """Return the unrounded average of a row of Tables 1 and 2."""
        return sum((self.task(row, task) for task in tasks), Decimal(0)) / len(tasks)

    def lead(self, table: int, row: str, other: str) -> Decimal:
        """Return the difference of two printed averages."""
        return self(table, row, "average") - self(table, other, "average")


@pytest.fixture(scope="session")
def printed(repo: Path) -> Printed:
    return Printed(repo / "results" / "paper" / "tables.csv")


@pytest.fixture(scope="session")
def errata(repo: Path) -> dict[str, Erratum]:
    return {erratum.id: erratum for erratum in load_errata(repo / "results" / "paper")}


@pytest.fixture(scope="session")
def paper(repo: Path) -> PaperTables:
    return load_paper_tables(repo / "results" / "paper")


@pytest.fixture
def says(tmp_path: Path) -> Says:
    """Return what a table's cell says of some records."""

    def aggregated(cell: Cell, *records: Record, readout: ReadOut = "last") -> CellValue:
        return aggregate(cell, RecordIndex.read(write(tmp_path, *records)), readout)

    return aggregated
