"""A table with every state of a cell, in all four formats, against golden files.

`LAYERTUNE_WRITE_GOLDEN=1 pytest tests/report/test_render_golden.py` writes the files anew; read them before
committing: the numbers that must stand in them are worked out in `every_state.PRINTED`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from every_state import PRINTED, SPEC, every_state

from layertune.report.index import RecordIndex
from layertune.report.render.build import sheet_of
from layertune.report.render.formats import to_csv, to_latex, to_markdown
from layertune.report.render.page import to_comparison
from layertune.report.render.sheet import Sheet
from layertune.report.request import Request
from layertune.report.values import TableValues

GOLDEN = Path(__file__).parents[1] / "golden" / "tables"


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> TableValues:
    return every_state(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def sheet(values: TableValues) -> Sheet:
    return sheet_of(values, Request())


def _page(values: TableValues, sheet: Sheet) -> str:
    return to_comparison(sheet.title, [sheet], RecordIndex([]), "../../runs")


FORMATS: dict[str, Callable[[TableValues, Sheet], str]] = {
    "md": lambda values, sheet: to_markdown(sheet),
    "tex": lambda values, sheet: to_latex(sheet, "bert"),
    "csv": lambda values, sheet: to_csv(values),
    "html": _page,
}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_table_with_every_state_equals_its_golden_file(
    suffix: str, values: TableValues, sheet: Sheet
) -> None:
    path = GOLDEN / f"every_state.{suffix}"
    text = FORMATS[suffix](values, sheet)
    if os.environ.get("LAYERTUNE_WRITE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
    assert text == path.read_bytes().decode()


def test_cells_print_what_was_worked_out_by_hand(sheet: Sheet) -> None:
    columns = [column.key for column in SPEC.columns]
    printed = {}
    for row, spec in zip(sheet.rows, SPEC.rows, strict=True):
        for column, cell in zip(columns, row.cells, strict=True):
            printed[(spec.key, column)] = f"{cell[0].text} {cell[0].count}".strip()
    assert {key: printed[key] for key in PRINTED} == PRINTED


def test_every_state_occurs(values: TableValues) -> None:
    states = {value.state for value in values.cells.values()}
    assert states == {"done", "partial", "stale", "oom", "failed", "absent", "missing", "refused"}


def test_best_and_second_best_are_marked_among_complete_cells_of_ranked_rows(sheet: Sheet) -> None:
    marked = {
        (row.title, title): cell[0].rank
        for row in sheet.rows
        for (title, _), cell in zip(sheet.columns, row.cells, strict=True)
        if cell[0].rank
    }
    assert marked == {
        ("Block-wise Highest (Ours)", "SST-2 (acc)"): "best",  # 92.0, not full fine-tuning's 93.0
        ("Block-wise Random", "SST-2 (acc)"): "second",  # 91.0; the median's 88.5 is partial
        ("Block-wise Highest (Ours)", "QNLI (acc)"): "best",  # 89.0
        ("Block-wise Median", "QNLI (acc)"): "second",  # 88.8
    }  # of the averages two of four are complete: too few to rank


def test_the_papers_number_stands_below_ours_with_the_difference_to_the_target(sheet: Sheet) -> None:
    below = {
        (row.title, title): (cell[1].text, cell[1].delta, cell[1].marks)
        for row in sheet.rows
        for (title, _), cell in zip(sheet.columns, row.cells, strict=True)
        if len(cell) > 1
    }
    assert below[("Block-wise Random", "SST-2 (acc)")] == ("89.9", "+1.1", ())
    assert below[("Block-wise Median", "SST-2 (acc)")] == ("90.1", "−1.6", ())
    assert below[("Block-wise Random", "QNLI (acc)")] == ("88.5", "0.0", ())
    assert below[("Block-wise Highest (Ours)", "QNLI (acc)")] == ("90.2 → 88.7", "+0.3", ("1",))
    assert below[("Block-wise Highest (Ours)", "CoLA (acc)")] == ("81.1", "", ())
    assert len(below) == 4 * 4  # the four rows and columns that the paper prints
    assert sheet.footnotes[-1][0] == "1" and "table9_qnli_block_high" in sheet.footnotes[-1][1]
