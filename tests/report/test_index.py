"""The index of records: which record answers a run, and why none does."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import pytest
from made_records import PROVEN, made, write

from layertune.config import RunConfig
from layertune.config.compose import plain_run
from layertune.records import versions_of
from layertune.report.index import RecordIndex


def asked(*overrides: str) -> RunConfig:
    return plain_run(["model=bert", "task=sst2", "method=low_k", *overrides])


def test_a_record_is_found_by_its_configuration(tmp_path: Path) -> None:
    run = asked("seed=42")
    index = RecordIndex.read(write(tmp_path, made(run, 0.75, best=0.875)))
    found = index.find(run)
    assert found.state == "done" and found.record is not None and not found.twice and found.notes == ()
    record = found.record
    assert (record.run_id, record.spec.seed, record.device) == ("bert-sst2-low_k-s42", 42, "GPU A")
    assert record.metric("last", "sst2", "accuracy") == 0.75
    assert record.metric("best", "sst2", "accuracy") == 0.875
    assert record.metric("last", "sst2", "mcc") is None
    assert record.metric("last", "imdb", "accuracy") is None
    assert record == made(run, 0.75, best=0.875)  # what is made here is a real record
    assert record.run == dataclasses.replace(run, overrides=())  # which stand in `spec`


@pytest.mark.parametrize("other", ["seed=0", "method.k=4", "train.epochs=3", "train=fast", "protocol=study"])
def test_a_record_of_another_configuration_is_not_used(tmp_path: Path, other: str) -> None:
    index = RecordIndex.read(write(tmp_path, made(asked("seed=42"))))
    changed = [item for item in ("seed=42", other) if item.split("=")[0] != other.split("=")[0]] + [other]
    assert index.find(asked(*changed)).state == "missing"


def test_a_record_says_nothing_of_where_it_ran(tmp_path: Path) -> None:
    index = RecordIndex.read(write(tmp_path, made(asked("train.device=cuda", "results_dir=elsewhere"))))
    assert index.find(asked()).state == "done"


@pytest.mark.parametrize("what", ["schema", "model", "task", "method", "train"])
def test_a_record_of_older_versions_is_stale_and_listed(tmp_path: Path, what: str) -> None:
    run = asked()
    old = dataclasses.replace(versions_of(run), **{what: 0})
    index = RecordIndex.read(write(tmp_path, made(run, versions=old)))
    found = index.find(run)
    assert (found.state, found.record) == ("stale", None)
    assert found.notes == ("bert-sst2-low_k-s0 is of older versions",)
    assert [record.run_id for record in index.stale()] == ["bert-sst2-low_k-s0"]


def test_a_record_of_the_versions_in_force_is_not_listed_as_stale(tmp_path: Path) -> None:
    index = RecordIndex.read(write(tmp_path, made(asked()), made(asked("task=imdb_sst2", "method=full"))))
    assert index.stale() == []


def test_a_method_of_one_s_own_is_stale_by_one_rule_for_lists_and_runs(tmp_path: Path) -> None:
    """No file of configs/ says which version of it is in force: the run does, and a record alone cannot."""
    run = asked()
    mine = dataclasses.replace(run, method=dataclasses.replace(run.method, name="mine", version=3))
    index = RecordIndex.read(write(tmp_path, made(mine)))
    assert index.find(mine).state == "done" and index.stale() == []
    other_model = dataclasses.replace(versions_of(mine), model=0)
    index = RecordIndex.read(write(tmp_path / "old", made(mine, versions=other_model)))
    assert index.find(mine).state == "stale" and len(index.stale()) == 1


def test_a_current_record_counts_beside_a_stale_one(tmp_path: Path) -> None:
    run = asked()
    stale = made(run, versions=dataclasses.replace(versions_of(run), task=0), run_id="a-stale-one")
    found = RecordIndex.read(write(tmp_path, stale, made(run, 0.625))).find(run)
    assert found.record is not None and found.record.run_id == "bert-sst2-low_k-s0"


@pytest.mark.parametrize(
    ("status", "says"),
    [("failed", "failed"), ("oom", "ran out of memory"), ("interrupted", "was interrupted")],
)
def test_a_run_that_did_not_finish_says_so_with_its_last_line(tmp_path: Path, status: str, says: str) -> None:
    run = asked()
    record = made(run, status=status, error="Traceback\n  ...\nValueError: no rows\n")
    found = RecordIndex.read(write(tmp_path, record)).find(run)
    assert (found.state, found.record) == (status, None)
    assert found.notes == (f"bert-sst2-low_k-s0 {says}: ValueError: no rows",)


@pytest.mark.parametrize(
    "check", ["frozen_unchanged", "trained_changed", "loss_finite", "trainable_matches_selection"]
)
def test_a_finished_record_with_a_failed_check_is_refused_by_its_run_id(tmp_path: Path, check: str) -> None:
    run = asked()
    record = made(run, checks=dataclasses.replace(PROVEN, **{check: False}))
    found = RecordIndex.read(write(tmp_path, record)).find(run)
    assert (found.state, found.record) == ("refused", None)
    assert found.notes == (f"bert-sst2-low_k-s0 is refused: {check} is false",)


def test_a_score_below_the_majority_class_is_a_fact_and_no_failure(tmp_path: Path) -> None:
    run = asked()
    record = made(run, checks=dataclasses.replace(PROVEN, beats_majority=False))
    found = RecordIndex.read(write(tmp_path, record)).find(run)
    assert found.record is not None and found.record.is_below_majority


def test_of_several_records_the_one_of_official_data_answers(tmp_path: Path) -> None:
    run = asked()
    records = [
        made(run, data="subset", rows="rows 1", run_id="a", created_at="2026-03-01T00:00:00+00:00"),
        made(run, data="official", run_id="b", created_at="2026-01-01T00:00:00+00:00"),
        made(run, data="surrogate", rows="rows 2", run_id="c", created_at="2026-02-01T00:00:00+00:00"),
    ]
    found = RecordIndex.read(write(tmp_path, *records)).find(run)
    assert found.record is not None and found.record.run_id == "b"
    assert not found.twice and found.notes == ()


def test_two_records_of_the_same_other_data_are_marked_and_the_newest_answers(tmp_path: Path) -> None:
    run = asked()
    records = [
        made(run, data="local", rows="rows 1", run_id="a", created_at="2026-03-01T00:00:00+00:00"),
        made(run, data="local", rows="rows 1", run_id="b", created_at="2026-01-01T00:00:00+00:00"),
    ]
    found = RecordIndex.read(write(tmp_path, *records)).find(run)
    assert found.record is not None and found.record.run_id == "a" and found.twice
    assert found.notes == ("a and b answer the same run; a is used",)


def test_two_records_of_different_other_data_are_refused_with_both_run_ids(tmp_path: Path) -> None:
    run = asked()
    records = [
        made(run, data="local", rows="rows 1", run_id="a"),
        made(run, data="subset", rows="rows 2", run_id="b"),
    ]
    found = RecordIndex.read(write(tmp_path, *records)).find(run)
    assert (found.state, found.record) == ("refused", None)
    assert found.notes == ("a and b are of different data, none of them official",)


def test_a_cpu_is_told_apart_by_its_threads(tmp_path: Path) -> None:
    run = asked()
    record = RecordIndex.read(write(tmp_path, made(run, device="CPU", threads=2))).find(run).record
    assert record is not None and record.device == "CPU, 2 threads"


def test_damaged_files_are_listed_and_the_others_read(tmp_path: Path) -> None:
    write(tmp_path, made(asked()))
    (tmp_path / "cut.json").write_text('{"schema": 1, "run_id": "x"')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bare.json").write_text(json.dumps({"run_id": "x", "status": "done"}))
    (tmp_path / "folder.json").mkdir()
    index = RecordIndex.read(tmp_path)
    assert len(index.records) == 1
    assert [line.split()[0] for line in index.damaged] == [
        "bare.json",
        "cut.json",
        "folder.json",
        "list.json",
    ]


def test_of_two_files_of_one_run_the_one_named_after_it_is_used_and_the_other_listed(tmp_path: Path) -> None:
    run = asked()
    write(tmp_path, made(run, 0.25))
    made(run, 0.75).write(tmp_path / "a-copy.json")
    index = RecordIndex.read(tmp_path)
    record = index.find(run).record
    assert record is not None and record.metric("last", "sst2", "accuracy") == 0.25
    (line,) = index.damaged
    assert line.startswith("a-copy.json is a second") and "bert-sst2-low_k-s0.json" in line


def test_a_record_says_its_run_only_where_its_configuration_is_the_one_of_its_hash(tmp_path: Path) -> None:
    record = made(asked())
    for config in ({}, {**record.config, "seed": 5}, {**record.config, "gone": 1}):
        assert dataclasses.replace(record, config=config).run is None
    assert dataclasses.replace(record, config={**record.config, "results_dir": "elsewhere"}).run is not None


def test_folders_are_read_in_order_and_a_missing_one_is_empty(tmp_path: Path) -> None:
    run = asked()
    write(tmp_path / "first", made(run, 0.25))
    write(tmp_path / "second", made(run, 0.75), made(asked("seed=1"), 0.5))
    index = RecordIndex.read(tmp_path / "first", tmp_path / "second", tmp_path / "none")
    assert len(index.records) == 2
    record = index.find(run).record
    assert record is not None and record.metric("last", "sst2", "accuracy") == 0.25


def test_the_committed_records_are_readable_and_current(repo: Path) -> None:
    index = RecordIndex.read(repo / "results" / "runs")
    assert index.damaged == () and len(index.records) >= 22
    for record in index.records:
        assert record.run is not None and record.versions.schema == 1


def test_a_record_that_counts_no_version_of_training_is_of_the_first(tmp_path: Path) -> None:
    trained, scored = asked("seed=1"), asked("seed=2", "stage=score")
    folder = write(tmp_path, made(trained), made(scored))
    for path in folder.glob("*.json"):
        tree = json.loads(path.read_text())
        del tree["versions"]["train"]
        path.write_text(json.dumps(tree))
    index = RecordIndex.read(folder)
    assert (index.find(trained).state, index.find(scored).state) == ("stale", "done")
    assert [record.run_id for record in index.stale()] == ["bert-sst2-low_k-s1"]
    assert index.stale(trained=False) == []  # what it scored before training is as good as ever


@pytest.mark.slow  # on a busy disk: most of it is writing the files
def test_five_thousand_records_are_indexed(tmp_path: Path) -> None:
    run = asked()
    text = made(run).to_json()
    own = run.config_sha256
    for number in range(5000):  # other configurations by another hash
        changed = text.replace(own, f"{number:064x}").replace('"bert-sst2-low_k-s0"', f'"run-{number}"')
        (tmp_path / f"run-{number}.json").write_text(changed)
    write(tmp_path, made(run))
    began = time.process_time()
    index = RecordIndex.read(tmp_path)
    assert time.process_time() - began < 10
    assert len(index.records) == 5001
    assert [record.run_id for record in index.of(run)] == ["bert-sst2-low_k-s0"]
