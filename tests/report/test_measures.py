"""What Table 4 and Figures 4 and 5 measure: speed-ups within one device, parameters, layers, memory, cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from made_records import Says, made

from layertune.records import Record
from layertune.report.render.words import ours
from layertune.report.spec import Cell, load_table
from layertune.report.values import split_error


@pytest.mark.parametrize(
    ("metric", "value", "rows", "error"),
    [
        ("accuracy", 0.9, 500, 0.0134164),  # sqrt(0.9 * 0.1 / 500)
        ("accuracy", 1.0, 500, 0.0),
        ("pearson", 0.8, 101, 0.036),  # (1 - 0.64) / sqrt(100)
        ("f1_macro", 0.8, 101, None),
        ("accuracy", 0.9, 0, None),
    ],
)
def test_the_evaluation_split_has_a_standard_error_of_its_own(
    metric: str, value: float, rows: int, error: float | None
) -> None:
    run = load_table(1).cell("full", "sst2").own_runs()[0]
    record = made(run, metrics={"sst2": {metric: value}})
    assert record.data is not None
    record = replace(record, data=replace(record.data, counts={"train": 64, "sst2": rows}))
    found = split_error(record, "sst2", metric)
    assert found == (None if error is None else pytest.approx(error, abs=1e-6))


def test_the_standard_error_of_the_split_stands_behind_the_seeds_of_a_cell(says: Says) -> None:
    cell = load_table(1).cell("full", "sst2")
    records = [made(run, 0.9) for run in cell.own_runs()]
    counted = [
        replace(one, data=replace(one.data, counts={"train": 64, "sst2": 500})) for one in records if one.data
    ]
    value = says(cell, *counted)
    assert value.split_error == pytest.approx(1.34164, abs=1e-5)
    assert ours(value).count == "(3; ±1.3)"


def timed(cell: Cell, *steps: float, **changes: Any) -> list[Record]:
    """Return timing records of a cell, one per seed, with these median steps."""
    return [made(run, step=step, **changes) for run, step in zip(cell.own_runs(), steps, strict=False)]


@pytest.fixture
def faster() -> Cell:
    """The speed-up of top_k on QNLI in Table 4."""
    return load_table(4).cell("top_k", "speedup_qnli")


def test_a_speed_up_is_full_over_the_method_seed_by_seed(says: Says, faster: Cell) -> None:
    assert faster.reference is not None
    value = says(faster, *timed(faster, 0.25, 0.25, 0.5), *timed(faster.reference, 0.5, 0.375, 0.5))
    assert value.state == "done"
    assert value.values == pytest.approx({0: 2.0, 42: 1.5, 100: 1.0})
    assert (value.mean, value.std) == (pytest.approx(1.5), pytest.approx(0.5))


def test_full_fine_tuning_is_as_fast_as_itself(says: Says, faster: Cell) -> None:
    assert faster.reference is not None
    value = says(faster.reference, *timed(faster.reference, 0.5, 0.4, 0.3))
    assert (value.mean, value.std) == (1.0, 0.0)


def test_a_speed_up_without_full_fine_tuning_is_missing_and_says_so(says: Says, faster: Cell) -> None:
    value = says(faster, *timed(faster, 0.25, 0.25, 0.5))
    assert (value.state, value.mean) == ("missing", None)
    assert "bert-qnli-top_k-s0: no step of full fine-tuning with seed 0 to compare with" in value.notes


def test_speed_of_two_devices_is_refused_with_both_run_ids(says: Says, faster: Cell) -> None:
    assert faster.reference is not None
    records = [*timed(faster, 0.25, 0.25, 0.5, device="GPU B"), *timed(faster.reference, 0.5, 0.5, 0.5)]
    value = says(faster, *records)
    assert (value.state, value.mean) == ("refused", None)
    assert value.notes[0].startswith("refused: bert-qnli-top_k-s0 ran on GPU B, bert-qnli-full-s0 on GPU A")


def test_parameters_do_not_depend_on_the_device(says: Says) -> None:
    cell = load_table(4).cell("top_k", "trainable_parameters")
    records = [made(run, device=f"GPU {run.seed}") for run in cell.own_runs()]
    assert says(cell, *records).state == "done"


MILLIONS = {"backbone": 21_000_000, "head": 7_000_000, "added": 500_000}


@pytest.mark.parametrize(
    ("column", "changes", "printed"),
    [
        ("trainable_parameters", {"trainable": MILLIONS}, 28.5),
        ("trainable_parameters", {"trainable": MILLIONS | {"at_once": 9_000_000, "touched": 9}}, 9.0),
        # full fine-tuning: everything but the pooler, which counts too
        ("trainable_parameters", {"trainable": MILLIONS, "unused": 600_000, "parameters": 29_100_000}, 29.1),
        ("trainable_parameters", {"trainable": MILLIONS, "unused": 600_000, "parameters": 99_100_000}, 28.5),
        ("backbone", {"trainable": MILLIONS}, 21.0),
        ("head", {"trainable": MILLIONS}, 7.0),
        ("added", {"trainable": MILLIONS}, 0.5),
        ("touched", {"trainable": MILLIONS}, 28.5),
        ("touched", {"trainable": MILLIONS | {"at_once": 1, "touched": 92_130_000}}, 92.13),
        ("lowest_sst2", {"lowest": 10}, 10.0),
        ("memory_sst2", {"memory": 3 * 2**29}, 1.5),
        ("preparation", {"selected": 8.0, "cached": 2.5}, 10.5),
        ("preparation", {"selected": None}, 0.0),
    ],
)
def test_table_4_reads_what_was_measured(
    says: Says, column: str, changes: dict[str, Any], printed: float
) -> None:
    cell = load_table(4).cell("low_k", column)
    assert says(cell, *(made(run, **changes) for run in cell.own_runs())).mean == pytest.approx(printed)


def test_the_mean_of_the_strategies_is_compared_with_the_papers_speed_up(says: Says) -> None:
    cell = load_table(4).cell("ours_mean", "speedup")
    steps = {"high_k": 0.5, "low_k": 0.25, "block_high": 0.5, "block_low": 0.25}  # against 0.5: 1, 2, 1, 2
    leaves = [leaf for part in cell.parts for leaf in part.parts]
    records = [r for leaf in leaves for r in timed(leaf, *[steps[leaf.row.key]] * 3)]
    records += [r for leaf in (leaves[0], leaves[4]) for r in timed(leaf.reference or leaf, 0.5, 0.5, 0.5)]
    value = says(cell, *records)
    assert (value.state, value.mean) == ("done", pytest.approx(1.5))
    assert value.delta == pytest.approx(1.5 - 1.54)
