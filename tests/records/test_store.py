"""The store: a record is found by the run that asks for it, and by no other."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from layertune.config import RunConfig
from layertune.errors import RecordError
from layertune.records import Record, Store, versions_of
from layertune.records.store import read_folders

MakeRun = Callable[..., RunConfig]
MakeRecord = Callable[..., Record]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", tmp_path / "outputs")


def test_a_finished_run_is_found_with_its_numbers(
    store: Store, make_run: MakeRun, make_record: MakeRecord
) -> None:
    run = make_run()
    record = make_record(run)
    path = store.save(record, run)
    assert path == Path(run.results_dir) / "runs" / f"{run.run_id}.json"
    assert store.status(run) == "done"
    assert store.find(run) == record == store.read(run)


def test_a_run_that_never_ran_is_missing(store: Store, make_run: MakeRun) -> None:
    run = make_run()
    assert (store.status(run), store.find(run), store.read(run)) == ("missing", None, None)


@pytest.mark.parametrize("status", ["failed", "oom", "interrupted"])
def test_an_unfinished_run_has_a_status_and_is_not_found(
    store: Store, make_run: MakeRun, make_record: MakeRecord, status: str
) -> None:
    run = make_run()
    store.save(make_record(run, status=status, error="Traceback"), run)
    assert store.status(run) == status
    assert store.find(run) is None
    read = store.read(run)
    assert read is not None and read.error == "Traceback"


@pytest.mark.parametrize("part", ["model", "task", "method", "train"])
def test_a_record_is_stale_once_a_version_was_raised(
    store: Store, make_run: MakeRun, make_record: MakeRecord, part: str
) -> None:
    run = make_run()
    store.save(make_record(run), run)
    raised = dataclasses.replace(run, **{part: dataclasses.replace(getattr(run, part), version=2)})
    assert (
        raised.run_id == run.run_id
    )  # a version is no part of the identity: the old record is seen, and refused
    assert store.status(raised) == "stale"
    assert store.find(raised) is None
    assert store.status(run) == "done"


def test_a_failed_record_of_an_older_version_is_stale_too(
    store: Store, make_run: MakeRun, make_record: MakeRecord
) -> None:
    run = make_run()
    older = dataclasses.replace(versions_of(run), method=0)
    store.save(make_record(run, status="failed", versions=older), run)
    assert store.status(run) == "stale"


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"method": {"k": 3}},
        {"train": {"epochs": 3}},
        {"protocol": {"name": "paper", "train_examples": 9}},
    ],
    ids=["seed", "k", "epochs", "rows"],
)
def test_the_record_of_another_configuration_is_not_found(
    store: Store, make_run: MakeRun, make_record: MakeRecord, other: dict[str, object]
) -> None:
    run = make_run()
    store.save(make_record(run), run)
    assert store.status(make_run(**other)) == "missing"


def test_tracked_runs_and_scratch_runs_have_their_folders(
    store: Store, make_run: MakeRun, tmp_path: Path
) -> None:
    scratch = {"name": "smoke", "tracked": False}
    assert store.path(make_run()).parent == tmp_path / "results" / "runs"
    assert store.path(make_run(protocol=scratch)).parent == tmp_path / "outputs" / "records"
    assert store.path(make_run(stage="score")).parent == tmp_path / "outputs" / "records"


def test_all_records_are_read_in_the_order_of_their_names(
    store: Store, make_run: MakeRun, make_record: MakeRecord
) -> None:
    runs = [make_run(seed=seed) for seed in (2, 0, 1)]
    scratch = make_run(protocol={"name": "smoke", "tracked": False})
    for run in (scratch, *runs):
        store.save(make_record(run), run)
    records, damaged = read_folders(*store.folders)
    assert [record.spec.seed for record in records.values()] == [0, 1, 2, 0]  # results/runs, outputs/records
    assert all(path.stem == record.run_id for path, record in records.items()) and damaged == {}


def test_a_damaged_record_is_an_error_that_names_the_file_not_a_missing_run(
    store: Store, make_run: MakeRun
) -> None:
    run = make_run()
    path = store.path(run)
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 1, "run_id": ')
    for ask in (store.status, store.find, store.read):
        with pytest.raises(RecordError, match=path.name):
            ask(run)


def test_an_empty_store_holds_no_records(store: Store) -> None:
    assert read_folders(*store.folders) == ({}, {})


def test_every_tracked_record_has_the_identity_of_its_configuration(repo: Path) -> None:
    # Tables find records by this hash: a record whose configuration no longer makes it is lost evidence.
    records, damaged = read_folders(repo / "results" / "runs", repo / "results" / "scores")
    assert records and damaged == {}, "results/runs holds the evidence of this repository"
    for path, record in records.items():
        assert record.run is not None, path.name
        assert record.run.config_sha256 == record.identity.config_sha256, path.name
        assert path.stem == record.run_id
        assert f"{repo}/" not in path.read_text(encoding="utf-8"), f"{path.name} names a folder"
