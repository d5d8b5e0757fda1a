"""A whole table: ranks and their ties, mixed columns, devices, coverage, and what claims read from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from made_records import PROVEN, made, write

from layertune.records import Record, versions_of
from layertune.report.claims import OurNumbers
from layertune.report.index import RecordIndex
from layertune.report.spec import TableSpec, load_table
from layertune.report.values import TableValues, table_values


def records_of(table: TableSpec, column: str, scores: dict[str, float], **changes: Any) -> list[Record]:
    """Return a record of every seed of some rows in one column, all seeds of a row alike."""
    return [
        made(run, score, metrics={run.task.data_name: {run.task.metric: score}}, **changes)
        for row, score in scores.items()
        for run in table.cell(row, column).own_runs()
    ]


def values_of(table: TableSpec, folder: Path, records: list[Record], **chosen: Any) -> TableValues:
    return table_values(table, RecordIndex.read(write(folder, *records)), **chosen)


def ranks(values: TableValues, column: str) -> dict[str, str]:
    found = {row.key: values.cell(row.key, column).rank for row in values.spec.rows}
    return {key: rank for key, rank in found.items() if rank is not None}


def test_best_and_second_are_marked_by_what_is_printed_and_equals_share(tmp_path: Path) -> None:
    table = load_table(9)
    scores = {"block_random": 0.9014, "block_median": 0.9006, "block_high": 0.9013, "block_low": 0.89}
    values = values_of(table, tmp_path, records_of(table, "sst2", scores))
    # printed 90.1, 90.1, 90.1, 89.0
    assert ranks(values, "sst2") == {
        "block_random": "best",
        "block_median": "best",
        "block_high": "best",
        "block_low": "second",
    }
    assert ranks(values, "cola") == {}


@pytest.mark.parametrize(
    ("partial", "wanted"),
    [
        (0.90, {"block_high": "best", "block_median": "second"}),
        (0.925, {"block_high": "best"}),  # it may yet be second
        (0.95, {}),  # it may yet be best
    ],
)
def test_a_partial_cell_is_not_ranked_and_no_rank_that_it_may_take_is_given(
    tmp_path: Path, partial: float, wanted: dict[str, str]
) -> None:
    table = load_table(9)
    scores = {"block_random": partial, "block_median": 0.92, "block_high": 0.93, "block_low": 0.5}
    values = values_of(table, tmp_path, records_of(table, "sst2", scores)[1:])  # the first lacks a seed
    assert values.cell("block_random", "sst2").state == "partial"
    assert ranks(values, "sst2") == wanted


def test_nothing_is_best_before_three_quarters_of_the_rows_are_complete(tmp_path: Path) -> None:
    table = load_table(9)
    scores = {"block_median": 0.90, "block_high": 0.91}
    assert ranks(values_of(table, tmp_path / "two", records_of(table, "sst2", scores)), "sst2") == {}
    three = records_of(table, "sst2", scores | {"block_low": 0.5})
    assert ranks(values_of(table, tmp_path / "three", three), "sst2") == {
        "block_high": "best",
        "block_median": "second",
    }


def test_runs_that_learned_nothing_take_no_part_in_the_ranking(tmp_path: Path) -> None:
    table = load_table(9)
    scores = {"block_random": 0.9, "block_median": 0.91, "block_high": 0.89}
    nothing = dataclasses.replace(PROVEN, beats_majority=False)
    records = records_of(table, "sst2", scores) + records_of(
        table, "sst2", {"block_low": 0.95}, checks=nothing
    )
    assert ranks(values_of(table, tmp_path, records), "sst2") == {
        "block_median": "best",
        "block_random": "second",
    }


def test_the_oracle_takes_no_part_in_the_ranking(tmp_path: Path) -> None:
    table = load_table(8)
    scores = {"grad_norm_k": 0.91, "high_k": 0.90, "low_k": 0.89, "block_high": 0.92, "block_low": 0.88}
    values = values_of(table, tmp_path, records_of(table, "sst2", scores))
    assert values.cell("ours_best", "sst2").mean == pytest.approx(92.0)
    assert ranks(values, "sst2") == {"block_high": "best", "grad_norm_k": "second"}


def test_full_fine_tuning_takes_no_part_in_the_ranking(tmp_path: Path) -> None:
    table = load_table(1)
    rows = [row.key for row in table.rows if row.ranked]
    scores = {"full": 0.99, **dict.fromkeys(rows, 0.5), "low_k": 0.90, "high_k": 0.91}
    values = values_of(table, tmp_path, records_of(table, "sst2", scores))
    assert ranks(values, "sst2") == {"high_k": "best", "low_k": "second"}


def test_table_6_ranks_within_each_model(tmp_path: Path) -> None:
    table = load_table(6)
    scores = {"roberta/top_k": 0.70, "roberta/low_k": 0.72, "electra/top_k": 0.60, "electra/low_k": 0.50}
    scores |= {f"{model}/{row}": 0.4 for model in ("roberta", "electra") for row in ("random_k", "bottom_k")}
    values = values_of(table, tmp_path, records_of(table, "rte", scores))
    assert ranks(values, "rte") == {
        "roberta/low_k": "best",
        "roberta/top_k": "second",
        "electra/top_k": "best",
        "electra/low_k": "second",
    }
    assert OurNumbers([values])("low_k", "rte", "accuracy", "roberta") == pytest.approx(72.0)
    assert OurNumbers([values])("low_k", "rte", "accuracy", "deberta") is None


def test_a_column_of_mixed_data_is_marked_not_ranked_and_names_two_run_ids(tmp_path: Path) -> None:
    table = load_table(9)
    official = records_of(table, "sst2", {"block_random": 0.95})
    other = records_of(table, "sst2", {"block_high": 0.91}, data="own-split", rows="own rows")
    values = values_of(table, tmp_path, official + other)
    assert values.column_marks == {"sst2": ("mixed",)}
    assert ranks(values, "sst2") == {}
    assert values.notes == (
        "SST-2 (acc) is not ranked: bert-sst2-block_random-s0 is of official data, "
        "bert-sst2-block_high-s0 of other, own-split data",
    )
    assert values.data_statuses == ("official", "own-split")


def test_a_column_all_of_the_same_other_data_is_ranked(tmp_path: Path) -> None:
    table = load_table(9)
    scores = {"block_random": 0.95, "block_high": 0.91, "block_low": 0.90}
    values = values_of(table, tmp_path, records_of(table, "sst2", scores, data="subset", rows="some"))
    assert values.column_marks == {}
    assert ranks(values, "sst2") == {"block_random": "best", "block_high": "second"}


def timing(table: TableSpec, rows: dict[str, str]) -> list[Record]:
    """Return timing records of rows of Figure 4, each on a device."""
    return [
        made(run, device=device, run_id=f"{row.replace('@', '-')}-s{run.seed}")
        for row, device in rows.items()
        for run in table.cell(row, "speedup").own_runs()
    ]


def test_rows_of_another_device_than_full_fine_tuning_are_refused(tmp_path: Path) -> None:
    table = load_table("figure4", model="tiny_bert")
    values = values_of(
        table, tmp_path, timing(table, {"full": "GPU A", "low_k@1": "GPU A", "low_k@2": "GPU B"})
    )
    assert values.cell("low_k@1", "speedup").state == "done"
    assert values.cell("low_k@2", "speedup").state == "refused"
    assert any("low_k-2-s0 ran on GPU B, full-s0 on GPU A" in n for n in values.notes)
    assert values.devices == ("GPU A", "GPU B")


def test_missing_runs_are_listed_in_order_and_counted(tmp_path: Path) -> None:
    table = load_table(9)
    records = records_of(table, "sst2", {"block_random": 0.9})
    failed = dataclasses.replace(records[1], status="failed", metrics=None, error="ValueError: x")
    values = values_of(table, tmp_path, [records[0], failed])
    assert values.coverage == (1, 4 * 4 * 3)
    missing = [(run.method.name, run.task.name, run.seed) for run in values.missing]
    assert missing[:3] == [
        ("block_random", "sst2", 42),
        ("block_random", "sst2", 100),
        ("block_random", "cola", 0),
    ]
    assert len(missing) == len(set(missing)) == 47
    assert values.seeds == (0,)


def test_a_figure_filled_by_another_methods_record_misses_nothing(tmp_path: Path) -> None:
    table = load_table("figure2")
    run = table.cell("sst2", "scores").own_runs()[-1]
    values = values_of(table, tmp_path, [made(run)])
    assert [run.task.name for run in values.missing] == ["qnli", "cola"]
    assert values.coverage == (1, 3)


def test_stale_records_and_commits_are_listed(tmp_path: Path) -> None:
    table = load_table(9)
    records = records_of(table, "sst2", {"block_random": 0.9})
    run = table.cell("block_random", "sst2").own_runs()[0]
    old = made(run, versions=dataclasses.replace(versions_of(run), method=0), run_id="old")
    changed = dataclasses.replace(
        records[2], identity=dataclasses.replace(records[2].identity, git_dirty=True)
    )
    values = values_of(table, tmp_path, [old, records[1], changed])
    assert values.stale == ("old",)
    assert values.commits == ("c" * 40, "c" * 40 + "+")
    assert [record.run_id for record in values.records] == [
        "bert-sst2-block_random-s100",
        "bert-sst2-block_random-s42",
    ]


def test_claims_read_finished_numbers_by_the_papers_names(tmp_path: Path) -> None:
    table = load_table(8)
    scores = {"high_k": 0.90, "low_k": 0.89, "block_high": 0.92, "block_low": 0.88}
    values = values_of(table, tmp_path, records_of(table, "mrpc", scores)[:-1])
    assert OurNumbers([values])("block_high", "mrpc", "f1_macro", "bert") == pytest.approx(92.0)
    assert OurNumbers([values])("block_high", "mrpc", "f1_macro_std", "bert") == pytest.approx(0.0)
    assert OurNumbers([values])("block_low", "mrpc", "f1_macro", "bert") is None  # a seed is missing
    assert OurNumbers([values])("ours_best", "mrpc", "f1_macro", "bert") is None
    assert OurNumbers([values])("high_k", "mrpc", "accuracy", "bert") is None
    assert OurNumbers([values])("high_k", "mrpc", "f1_macro", "gpt2") is None


def test_both_read_outs_of_one_table(tmp_path: Path) -> None:
    table = load_table(9)
    run = table.cell("block_low", "qnli").own_runs()[0]
    for readout, mean in (("last", 50.0), ("best", 75.0)):
        values = values_of(table, tmp_path, [made(run, 0.5, best=0.75)], readout=readout)
        assert values.cell("block_low", "qnli").mean == mean and values.readout == readout


def test_the_same_records_give_the_same_values(tmp_path: Path) -> None:
    table = load_table(9)
    records = records_of(table, "sst2", {"block_random": 0.9, "block_low": 0.8})
    one = values_of(table, tmp_path / "a", records)
    other = values_of(table, tmp_path / "b", records[::-1])
    assert (one.cells, one.notes, one.missing) == (other.cells, other.notes, other.missing)
