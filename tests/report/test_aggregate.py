"""What a cell says: each state, means and spreads by hand, marks, refusals, and the paper's number."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from made_records import PROVEN, Says, made

from layertune.records import Record, versions_of
from layertune.report.index import RecordIndex
from layertune.report.spec import Cell, load_table
from layertune.report.values import aggregate, table_values

SEEDS = (0, 42, 100)


@pytest.fixture
def low() -> Cell:
    """The cell of low_k on SST-2 in Table 1: the paper prints 90.8 ± 0.3."""
    return load_table("table1").cell("low_k", "sst2")


def seeds_of(cell: Cell, *scores: float, **changes: Any) -> list[Record]:
    """Return a record per score, in order of the seeds of a cell."""
    return [made(run, score, **changes) for run, score in zip(cell.own_runs(), scores, strict=False)]


def test_done_is_mean_and_sample_deviation_over_the_seeds(says: Says, low: Cell) -> None:
    value = says(low, *seeds_of(low, 0.90, 0.91, 0.92))
    assert (value.state, value.n, value.wanted) == ("done", 3, 3)
    assert value.mean == pytest.approx(91.0)
    assert value.std == pytest.approx(1.0)  # sqrt((1 + 0 + 1) / 2)
    assert value.values == pytest.approx({0: 90.0, 42: 91.0, 100: 92.0})
    assert value.run_ids == tuple(f"bert-sst2-low_k-s{seed}" for seed in SEEDS)
    assert value.marks == () and value.notes == ()
    assert value.paper is not None and (value.paper.target, value.paper.std) == (90.8, 0.3)
    assert value.delta == pytest.approx(0.2)


def test_partial_counts_its_seeds_and_has_a_mean_of_those(says: Says, low: Cell) -> None:
    value = says(low, *seeds_of(low, 0.90, 0.91))
    assert (value.state, value.n, value.wanted) == ("partial", 2, 3)
    assert value.mean == pytest.approx(90.5)
    assert value.std == pytest.approx(0.5**0.5)
    one = says(low.__class__(**{**vars(low), "seeds": (0, 1)}), *seeds_of(low, 0.90))
    assert (one.state, one.n, one.wanted, one.std) == ("partial", 1, 2, None)


def test_missing_has_the_papers_number_and_none_of_ours(says: Says, low: Cell) -> None:
    value = says(low)
    assert (value.state, value.mean, value.std, value.n, value.wanted) == ("missing", None, None, 0, 3)
    assert value.paper is not None and value.paper.target == 90.8 and value.delta is None


def test_stale_is_not_used_and_named(says: Says, low: Cell) -> None:
    old = dataclasses.replace(versions_of(low.own_runs()[0]), method=0)
    value = says(low, *seeds_of(low, 0.9, 0.9, 0.9, versions=old))
    assert (value.state, value.mean) == ("stale", None)
    assert value.notes[0] == "bert-sst2-low_k-s0 is of older versions"


@pytest.mark.parametrize("status", ["failed", "oom"])
def test_runs_that_did_not_finish_show_as_such(says: Says, low: Cell, status: str) -> None:
    value = says(low, *seeds_of(low, 0.9, status=status, error="RuntimeError: no memory"))
    assert (value.state, value.mean) == (status, None)
    assert "bert-sst2-low_k-s0" in value.notes[0] and "RuntimeError: no memory" in value.notes[0]


def test_an_interrupted_run_is_still_to_be_run(says: Says, low: Cell) -> None:
    value = says(low, *seeds_of(low, 0.9, status="interrupted"))
    assert value.state == "missing" and "was interrupted" in value.notes[0]


def test_one_failed_seed_leaves_the_others_partial_and_is_noted(says: Says, low: Cell) -> None:
    first, second, third = seeds_of(low, 0.90, 0.92, 0.94)
    failed = dataclasses.replace(third, status="failed", error="ValueError: bad", metrics=None)
    value = says(low, first, second, failed)
    assert (value.state, value.mean, value.n) == ("partial", pytest.approx(91.0), 2)
    assert value.notes == ("bert-sst2-low_k-s100 failed: ValueError: bad",)


def test_a_record_with_a_failed_check_is_refused_by_its_run_id(says: Says, low: Cell) -> None:
    value = says(low, *seeds_of(low, 0.9, checks=dataclasses.replace(PROVEN, frozen_unchanged=False)))
    assert (value.state, value.mean) == ("refused", None)
    assert value.notes == ("bert-sst2-low_k-s0 is refused: frozen_unchanged is false",)


def test_data_that_are_not_official_are_marked(says: Says, low: Cell) -> None:
    value = says(low, *seeds_of(low, 0.90, 0.91, 0.92, data="own-split", rows="own rows"))
    assert value.state == "done" and value.marks == ("data",)


def test_official_and_other_data_within_a_cell_are_marked_as_mixed(says: Says, low: Cell) -> None:
    first, second, third = seeds_of(low, 0.90, 0.91, 0.92)
    assert third.data is not None
    own = dataclasses.replace(third.data, status="own-split", fingerprint_sha256="own rows")
    value = says(low, first, second, dataclasses.replace(third, data=own))
    assert value.state == "done" and value.marks == ("data", "mixed")


def test_seeds_of_different_other_data_are_refused_with_both_run_ids(says: Says, low: Cell) -> None:
    first, second, _ = (made(run, 0.9, data="local", rows=f"rows {run.seed}") for run in low.own_runs())
    value = says(low, first, second)
    assert (value.state, value.mean, value.n) == ("refused", None, 0)
    assert value.notes == (
        "refused: bert-sst2-low_k-s0 and bert-sst2-low_k-s42 are of different data, none of them official",
    )


def test_two_records_of_one_run_are_marked_and_named(says: Says, low: Cell) -> None:
    again = made(low.own_runs()[0], 0.5, run_id="another", created_at="2025-01-01T00:00:00+00:00")
    value = says(low, *seeds_of(low, 0.90, 0.91, 0.92), again)
    assert value.mean == pytest.approx(91.0) and value.marks == ("twice",)
    assert value.notes == ("another and bert-sst2-low_k-s0 answer the same run; bert-sst2-low_k-s0 is used",)


def test_seeds_of_different_local_weights_are_marked_and_named(says: Says, low: Cell) -> None:
    one, other, _ = (made(run, 0.9, weights=f"sha256:{run.seed}") for run in low.own_runs())
    value = says(low, one, other)
    assert value.marks == ("mixed",)
    assert value.notes == ("bert-sst2-low_k-s0 and bert-sst2-low_k-s42 are of different weights",)


def test_a_score_at_the_majority_class_is_marked(says: Says, low: Cell) -> None:
    value = says(low, *seeds_of(low, 0.5, checks=dataclasses.replace(PROVEN, beats_majority=False)))
    assert value.marks == ("majority",)


def test_both_read_outs_come_from_one_record(says: Says, low: Cell) -> None:
    records = seeds_of(low, 0.90, 0.90, 0.90, best=0.93)
    assert says(low, *records, readout="last").mean == pytest.approx(90.0)
    assert says(low, *records, readout="best").mean == pytest.approx(93.0)


def test_a_metric_that_could_not_be_computed_is_absent_with_its_reason(says: Says) -> None:
    cell = load_table(3).cell("low_k", "meteor")
    scores = {"e2e": {"bleu": 0.6, "meteor": None, "meteor_reason": "no Java"}}
    value = says(cell, made(cell.own_runs()[0], metrics=scores))
    assert (value.state, value.mean) == ("absent", None)
    assert value.notes == ("gpt2-e2e-low_k-s0 does not record meteor: no Java",)


def test_a_run_without_a_best_epoch_is_absent_from_that_read_out_with_its_reason(says: Says) -> None:
    cell = load_table(3).cell("low_k", "bleu")
    records = [made(run, metrics={"e2e": {"bleu": 0.6}}) for run in cell.own_runs()]
    assert records[0].metrics is not None
    only_last = dataclasses.replace(records[0].metrics, best=None)
    records = [dataclasses.replace(record, metrics=only_last) for record in records]
    assert says(cell, *records).mean == pytest.approx(60.0)
    value = says(cell, *records, readout="best")
    assert (value.state, value.mean, value.n, value.wanted) == ("absent", None, 0, 3)
    assert value.notes[0] == (
        "gpt2-e2e-low_k-s0 does not record bleu: nothing was generated by epoch (eval_generation=last); "
        "force=true eval_generation=every repeats the run"
    )
    values = table_values(load_table(3), RecordIndex([]), "best")
    assert values.cell("low_k", "bleu").state == "missing"  # there the run itself is


def test_raw_metrics_are_not_multiplied(says: Says) -> None:
    cell = load_table(3).cell("low_k", "nist")
    records = [made(run, metrics={"e2e": {"nist": 8.5}}) for run in cell.own_runs()]
    assert says(cell, *records).mean == pytest.approx(8.5)


def test_cross_domain_cells_read_the_foreign_evaluation_set(says: Says) -> None:
    table = load_table(5)
    accuracy, f1 = table.cell("lora", "sst2_imdb"), table.cell("lora", "sst2_imdb_f1")
    scores = {"sst2": {"accuracy": 0.9, "f1_macro": 0.9}, "imdb": {"accuracy": 0.85, "f1_macro": 0.8}}
    records = [made(run, metrics=scores) for run in accuracy.own_runs()]
    assert says(accuracy, *records).mean == pytest.approx(85.0)
    assert says(f1, *records).mean == pytest.approx(80.0)
    assert says(f1, *records).paper is None


def test_another_model_stands_beside_the_papers_number_without_a_difference(says: Says) -> None:
    cell = load_table("table1", model="gte_small").cell("low_k", "sst2")
    value = says(cell, *seeds_of(cell, 0.90, 0.91, 0.92))
    assert value.paper is not None and value.paper.target == 90.8
    assert value.delta is None and value.marks == ("other",)


def test_the_errata_decide_what_a_cell_is_compared_with(says: Says) -> None:
    cell = load_table(9).cell("block_high", "qnli")
    value = says(cell, *seeds_of(cell, 0.89, 0.89, 0.89))
    assert value.paper is not None and value.paper.printed == "90.2" and value.paper.target == 88.7
    assert value.delta == pytest.approx(0.3)


def averaged(*scores: tuple[float, float, float]) -> tuple[Cell, list[Record]]:
    """Return the average of low_k in Table 2 with records: seven tasks, three seeds each."""
    cell = load_table(2).cell("low_k", "average")
    return cell, [r for part, own in zip(cell.parts, scores, strict=False) for r in seeds_of(part, *own)]


def test_an_average_is_the_mean_of_its_cells_and_spreads_over_seeds(says: Says) -> None:
    cell, records = averaged(*[(0.80, 0.82, 0.84)] * 6, (0.10, 0.08, 0.06))
    value = says(cell, *records)
    assert (value.state, value.n, value.wanted) == ("done", 21, 21)
    assert value.mean == pytest.approx((6 * 82 + 8) / 7)
    # per seed (480 + 10) / 7 = 70, (492 + 8) / 7 = 500 / 7, (504 + 6) / 7 = 510 / 7: steps of 10 / 7
    assert value.values == pytest.approx({0: 70.0, 42: 500 / 7, 100: 510 / 7})
    assert value.std == pytest.approx(10 / 7)
    assert value.paper is not None and value.paper.value == 81.2
    assert value.delta == pytest.approx(500 / 7 - 81.2)


def test_an_average_over_incomplete_cells_has_no_number_and_the_worst_state(says: Says) -> None:
    cell, records = averaged(*[(0.80, 0.82, 0.84)] * 7)
    partial = says(cell, *records[:-1])
    assert (partial.state, partial.mean, partial.std, partial.n, partial.wanted) == (
        "partial",
        None,
        None,
        20,
        21,
    )


def test_an_average_over_a_missing_cell_is_missing(says: Says) -> None:
    cell, records = averaged(*[(0.80, 0.82, 0.84)] * 6)
    value = says(cell, *records)
    assert (value.state, value.mean, value.delta, value.n) == ("missing", None, None, 18)


def test_an_average_carries_the_marks_of_its_cells(says: Says) -> None:
    cell, records = averaged(*[(0.80, 0.82, 0.84)] * 6)
    others = seeds_of(cell.parts[6], 0.8, 0.8, 0.8, data="subset", rows="some")
    assert says(cell, *records, *others).marks == ("data",)


def test_the_best_strategy_is_the_best_of_four_finished_cells(says: Says) -> None:
    cell = load_table(8).cell("ours_best", "cola")
    scores = {"high_k": 0.80, "low_k": 0.78, "block_high": 0.82, "block_low": 0.81}
    records = [r for part in cell.parts for r in seeds_of(part, *[scores[part.row.key]] * 3)]
    value = says(cell, *records)
    assert (value.state, value.chosen, value.mean) == ("done", "block_high", pytest.approx(82.0))
    assert value.delta == pytest.approx(0.8)  # the paper prints 81.2
    assert (value.n, value.wanted) == (12, 12)
    cost = dataclasses.replace(cell, column=dataclasses.replace(cell.column, higher_is_better=False))
    assert says(cost, *records).chosen == "low_k"
    incomplete = RecordIndex([])
    assert aggregate(cell, incomplete).state == "missing" and aggregate(cell, incomplete).chosen is None


def test_scores_of_a_figure_need_one_record_of_any_method_that_scores_alike(says: Says) -> None:
    cell = load_table("figure2").cell("qnli", "scores")
    assert says(cell).state == "missing"
    other = next(run for run in cell.own_runs() if run.method.name == "block_low" and run.seed == 42)
    value = says(cell, made(other))
    assert (value.state, value.n, value.wanted) == ("done", 1, 1)
    assert value.run_ids == ("bert-qnli-block_low-s42",)


def test_a_cell_that_cannot_be_asked_for_says_why(says: Says) -> None:
    table = load_table(6, overrides=["train.precision=bf16"])
    cell = next(cell for cell in table.cells() if cell.row.model == "deberta")
    value = says(cell)
    assert (value.state, value.mean, value.n, value.wanted) == ("refused", None, 0, len(cell.seeds))
    assert value.notes[0].startswith("refused: train.precision=bf16 does not work with model=deberta")
