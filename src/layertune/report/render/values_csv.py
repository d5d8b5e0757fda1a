"""Values as CSV: one line per cell, numbers at full precision, for whoever wants to compute with them."""

from __future__ import annotations

import csv
import io

from layertune.report.values import TableValues

HEADER = (
    "table", "row", "column", "group", "method", "model", "task", "metric", "unit", "readout", "state",
    "mean", "std", "n", "wanted", "paper", "paper_std", "paper_target", "difference", "rank", "marks",
    "chosen", "values", "run_ids", "notes", "split_error",
)  # fmt: skip


def to_csv(*tables: TableValues) -> str:
    """Return one line per cell. `values` reads seed:number, a list is separated by spaces, notes by " | "."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    for values in tables:
        for value in values.cells.values():
            row, column, paper = value.cell.row, value.cell.column, value.paper
            writer.writerow(
                [
                    values.spec.name,
                    row.key,
                    column.key,
                    row.group,
                    row.title,
                    row.model,
                    column.task,
                    column.metric,
                    column.unit,
                    values.readout,
                    value.state,
                    _number(value.mean),
                    _number(value.std),
                    value.n,
                    value.wanted,
                    paper.printed if paper else "",
                    (paper.std_printed or "") if paper else "",
                    _number(paper.target) if paper else "",
                    _number(value.delta),
                    value.rank or "",
                    " ".join(value.marks),
                    value.chosen or "",
                    " ".join(f"{seed}:{_number(number)}" for seed, number in value.values.items()),
                    " ".join(value.run_ids),
                    " | ".join(value.notes),
                    _number(value.split_error),
                ]
            )
    return out.getvalue()


def _number(number: float | None) -> str:
    """Return up to six digits after the point, never "-0"; "" for None."""
    return "" if number is None else f"{round(number, 6) + 0.0:.10g}"
