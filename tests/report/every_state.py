"""One table in which every state, mark and kind of cell occurs, made of records; its numbers by hand.

The rows of Table 9 with full fine-tuning, a best of two rows, an average and a count of parameters. The
scores of a cell are those of seeds 0, 42, 100 in that order. What each cell must print stands in `PRINTED`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from made_records import PROVEN, made, write

from layertune.records import Record, versions_of
from layertune.report.index import RecordIndex
from layertune.report.spec import Column, Row, TableSpec
from layertune.report.values import TableValues, table_values

PRINTED = {
    ("full", "sst2"): "93.0 ± 0.0 (3)",  # not ranked: full fine-tuning
    ("block_random", "sst2"): "91.0 ± 1.0 (3)",  # 90, 91, 92; the paper's 89.9: +1.1; second
    ("block_median", "sst2"): "88.5 ± 0.7 ·2/3",  # 88, 89: 0.5 ** 0.5; 90.1: -1.6
    ("block_high", "sst2"): "92.0 ± 0.0 (3)",  # 90.7: +1.3; best
    ("block_low", "sst2"): "60.0 ± 10.0 (3)",  # 50, 60, 70; 90.4: -30.4; seed 0 is below the majority class
    ("best_of_two", "sst2"): "92.0 ± 0.0 (3)",  # from block_high
    ("full", "cola"): "—",
    ("block_random", "cola"): "OOM",
    ("block_median", "cola"): "failed",
    ("block_high", "cola"): "stale",
    ("block_low", "cola"): "refused",
    ("best_of_two", "cola"): "refused",  # the worse of its two parts
    ("full", "qnli"): "90.0 ·1/3",  # one seed has no deviation
    ("block_random", "qnli"): "88.5 ± 0.0 (3)",  # the paper's 88.5: 0.0
    ("block_median", "qnli"): "88.8 ± 0.0 (3)",  # seed 0 answered twice
    ("block_high", "qnli"): "89.0 ± 1.0 (3)",  # 88, 89, 90; target 88.7, not the printed 90.2: +0.3
    ("block_low", "qnli"): "—",
    ("best_of_two", "qnli"): "— ·3/6",
    ("full", "mrpc"): "absent",  # done, without the metric
    ("block_high", "mrpc"): "75.3 ± 0.0 (3)",  # own split: the column is not ranked
    ("block_random", "mrpc"): "70.2 ± 0.0 (3)",
    ("block_high", "average"): "90.5 ± 0.5 (3)",  # (92 + 88)/2, (92 + 89)/2, (92 + 90)/2
    ("block_low", "average"): "— ·3/6",
    ("full", "parameters"): "116.56 (3)",  # 115,971,842 with the head, and 590,592 that no computation uses
    ("block_high", "parameters"): "28.34 (3)",  # 3 layers of 7,087,872 and the head of 7,080,194
}


def _row(name: str, group: str, title: str, **own: object) -> Row:
    return Row(name, name, title, group, "bert", (f"method={name}",), **own)  # type: ignore[arg-type]


def _column(task: str, metric: str, title: str) -> Column:
    return Column(task, title, task, metric, "percent", 1, (f"task={task}",), evaluation=task)


BLOCKS = ("block_random", "block_median", "block_high", "block_low")
SPEC = TableSpec(
    name="table9",
    title="Table 9",
    caption="Every state of a cell: 100 % of them, k_3 & ~1 #2 {3} | 4 <5> [6] `7` *8*.",
    rows=(
        _row("full", "", "Full Fine-tuning", ranked=False),
        _row("block_random", "Blocks & more", "Block-wise Random"),
        _row("block_median", "Blocks & more", "Block-wise Median"),
        _row("block_high", "Blocks & more", "Block-wise Highest (Ours)"),
        _row("block_low", "Blocks & more", "Block-wise Lowest (Ours)"),
        Row(
            "best_of_two", "best_of_two", "Best_of two", "Derived", "bert",
            how="best", of=("block_high", "block_low"), ranked=False, mark="a",
        ),
    ),
    columns=(
        _column("sst2", "accuracy", "SST-2 (acc)"),
        _column("cola", "accuracy", "CoLA (acc)"),
        _column("qnli", "accuracy", "QNLI (acc)"),
        _column("mrpc", "f1_macro", "MRPC (F1)"),
        Column("average", "Avg.", "average", "mean", "percent", 1, mean_of=("sst2", "qnli")),
        Column(
            "parameters", "#Params (M)", "sst2", "trainable_parameters", "million", 2, ("task=sst2",),
            measure="trainable_parameters", higher_is_better=None, mark="b",
        ),
    ),
    seeds=(0, 42, 100),
    paper_table=9,
    model="bert",
    paper_model="bert",
    train="published",
    grid="paper",
    protocol="paper",
    footnotes={"a": "The better of two rows.", "b": "Measured in a step.", "c": "Of no row or column."},
    notes=("A note of the table's own: 5 % of them_all.",),
)  # fmt: skip


def every_state(folder: Path) -> TableValues:
    """Write the records into a folder and return what they say."""
    return table_values(SPEC, RecordIndex.read(write(folder, *_records())))


def _records() -> list[Record]:
    whole = {"backbone": 108_891_648, "head": 7_080_194, "added": 0}
    found = _of("full", "sst2", 0.93, 0.93, 0.93, trainable=whole, unused=590_592)
    found += _of("block_random", "sst2", 0.90, 0.91, 0.92)
    found += _of("block_median", "sst2", 0.88, 0.89, commit="d" * 40, dirty=True)
    found += _of("block_high", "sst2", 0.92, 0.92, 0.92, device="GPU B")
    below = dataclasses.replace(PROVEN, beats_majority=False)
    low = _of("block_low", "sst2", 0.50, 0.60, 0.70)
    found += [dataclasses.replace(low[0], checks=below), *low[1:]]
    found += _of("block_random", "cola", 0.8, status="oom", error="OutOfMemoryError: 90 GiB <asked>")
    found += _of("block_median", "cola", 0.8, status="failed", error="Traceback\nValueError: a_b & c")
    old = dataclasses.replace(versions_of(_runs("block_high", "cola")[0]), method=0)
    found += _of("block_high", "cola", 0.8, 0.8, 0.8, versions=old)
    found += _of(
        "block_low", "cola", 0.8, 0.8, 0.8, checks=dataclasses.replace(PROVEN, frozen_unchanged=False)
    )
    found += _of("full", "qnli", 0.90)
    found += _of("full", "mrpc", None, None, None)
    found += _of("block_random", "qnli", 0.885, 0.885, 0.885)
    median = _of("block_median", "qnli", 0.888, 0.888, 0.888)
    again = dataclasses.replace(
        median[0], run_id="bert-qnli-block_median-again", created_at="2026-02-02T00:00:00"
    )
    found += [*median, again]
    found += _of("block_high", "qnli", 0.88, 0.89, 0.90)
    found += _of("block_high", "mrpc", 0.753, 0.753, 0.753, data="own-split", rows="other rows")
    found += _of("block_random", "mrpc", 0.702, 0.702, 0.702)
    return found


def _runs(row: str, column: str) -> tuple:  # type: ignore[type-arg]
    return SPEC.cell(row, column).own_runs()


def _of(row: str, column: str, *scores: float | None, **changes: object) -> list[Record]:
    """Return a record per score, in order of the seeds."""
    runs = _runs(row, column)
    metric = SPEC.column(column).metric
    three = {"backbone": 3 * 7_087_872, "head": 7_080_194, "added": 0}
    changes = {"trainable": three, "parameters": 116_562_434, **changes}
    return [
        made(run, metrics={column: {metric: score}}, **changes)  # type: ignore[arg-type]
        for run, score in zip(runs, scores, strict=False)
    ]
