"""From a run to its record: success, failure, interruption and false checks each end in the right file."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from layertune.config import RunConfig
from layertune.errors import ConfigError, RunFailed
from layertune.records import Record, Store, read_record
from layertune.records.record import ChecksRecord
from layertune.records.writer import RecordDraft, git_state, open_record, printable_config

MakeRun = Callable[..., RunConfig]
MakeRecord = Callable[..., Record]

GOOD = ChecksRecord(True, True, True, True, False)  # beats_majority is a fact, not a failure
BAD = dataclasses.replace(GOOD, frozen_unchanged=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results", tmp_path / "outputs")


def test_a_run_that_ends_well_is_written_as_done(
    store: Store, make_run: MakeRun, make_record: MakeRecord
) -> None:
    run = make_run(seed=7)
    whole = make_record(run)
    with open_record(run, store) as draft:
        draft.put(env=whole.env, data=whole.data, model=whole.model, training=whole.training, checks=GOOD)
        assert not store.path(run).exists()  # nothing is written before the end
    record = read_record(store.path(run))
    assert (record.status, record.error, record.run_id) == ("done", None, run.run_id)
    assert (record.spec.model, record.spec.k, record.spec.seed) == ("tiny_bert", 2, 7)
    assert record.identity.config_sha256 == run.config_sha256
    assert store.find(run) == record


def test_the_record_is_concluded_before_its_mirror_closes(make_run: MakeRun) -> None:
    draft = RecordDraft(make_run())
    assert draft.record.status == "interrupted"  # what a killed process would leave in memory
    draft.put(checks=GOOD)
    assert draft.conclude().status == draft.record.status == "done"
    draft.put(checks=BAD)
    assert draft.conclude().error == "checks are false: frozen_unchanged"


def test_an_error_becomes_a_failed_record_with_its_traceback(store: Store, make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(RunFailed, match=r"failed: ZeroDivisionError: by zero"), open_record(run, store):
        raise ZeroDivisionError("by zero")
    record = store.read(run)
    assert record is not None and record.error is not None
    assert record.status == "failed"
    assert record.error.startswith("Traceback") and record.error.endswith("ZeroDivisionError: by zero\n")


def test_a_traceback_names_files_from_the_checkout_down(store: Store, make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(RunFailed), open_record(run, store):
        store.save(None, run)  # type: ignore[arg-type]
    record = store.read(run)
    assert record is not None and record.error is not None
    assert 'File "src/layertune/records/store.py", line' in record.error
    assert str(Path(__file__).parents[2]) not in record.error


def cuda_is_full() -> None:
    class OutOfMemoryError(RuntimeError):  # as torch names it
        pass

    raise OutOfMemoryError


def library_of_cuda_is_full() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def cpu_is_full() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def numpy_is_full() -> None:
    np.empty(1 << 60, dtype=np.uint8)


def system_is_full() -> None:
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def cause_is_full() -> None:
    try:
        cpu_is_full()
    except RuntimeError as error:
        raise ValueError("the batch cannot be made") from error


def what_was_being_handled_is_full() -> None:
    try:
        cause_is_full()
    except ValueError:
        raise KeyError("no batch")  # noqa: B904 - as libraries do


@pytest.mark.parametrize(
    "fill",
    [
        *(cuda_is_full, library_of_cuda_is_full, cpu_is_full, numpy_is_full, system_is_full, cause_is_full),
        what_was_being_handled_is_full,
    ],
)
def test_out_of_memory_has_a_status_of_its_own(
    store: Store, make_run: MakeRun, fill: Callable[[], None]
) -> None:
    run = make_run()
    with pytest.raises(RunFailed, match="oom"), open_record(run, store):
        fill()
    assert store.status(run) == "oom"


def test_a_full_disk_is_no_lack_of_memory(store: Store, make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(RunFailed), open_record(run, store):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert store.status(run) == "failed"


def test_an_interruption_has_a_status_of_its_own(store: Store, make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(KeyboardInterrupt), open_record(run, store):
        raise KeyboardInterrupt
    assert store.status(run) == "interrupted"


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("how", ["error", "false check"])
def test_a_record_that_cannot_be_written_hides_no_failure(
    store: Store,
    make_run: MakeRun,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    with pytest.raises(RunFailed) as failed, open_record(make_run(), store) as draft:
        monkeypatch.setattr(Store, "save", refuse)
        if how == "error":
            raise ZeroDivisionError("by zero")
        draft.put(checks=BAD)
    assert "No space left" in str(failed.value)
    own = "by zero" if how == "error" else "frozen_unchanged"
    assert own in str(failed.value) and own in caplog.text  # what the record would have said


def test_a_record_that_cannot_be_written_hides_no_interruption(
    store: Store, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "save", refuse)
    with pytest.raises(KeyboardInterrupt), open_record(make_run(), store):
        raise KeyboardInterrupt


def test_a_failure_is_recorded_where_there_is_no_home_folder(
    store: Store, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_: int) -> None:
        raise KeyError("uid not found")

    run = make_run()
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(RunFailed, match="by zero"), open_record(run, store):
        raise ZeroDivisionError("by zero")
    assert store.status(run) == "failed"


def test_an_error_in_broken_unicode_is_recorded(store: Store, make_run: MakeRun) -> None:
    run = make_run()
    with pytest.raises(RunFailed), open_record(run, store):
        raise ValueError("no such file: \udcff.csv")  # a file name that is not UTF-8
    record = store.read(run)
    assert record is not None and record.error is not None and "udcff.csv" in record.error


def test_a_wrong_request_leaves_no_record(store: Store, make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(ConfigError), open_record(make_run(), store):
        raise ConfigError("no such weights")
    assert list(tmp_path.iterdir()) == []


def test_a_false_check_fails_the_run(store: Store, make_run: MakeRun) -> None:
    run = make_run()
    with (
        pytest.raises(RunFailed, match="checks are false: frozen_unchanged"),
        open_record(run, store) as draft,
    ):
        draft.put(checks=BAD)
    record = store.read(run)
    assert record is not None
    assert (record.status, record.error) == ("failed", "checks are false: frozen_unchanged")


@pytest.mark.parametrize("how", ["error", "false check"])
def test_a_forced_repeat_that_fails_leaves_the_finished_record(
    store: Store, make_run: MakeRun, make_record: MakeRecord, how: str
) -> None:
    run = make_run(force=True)
    finished = make_record(run)
    store.save(finished, run)
    with pytest.raises(RunFailed), open_record(run, store) as draft:
        if how == "error":
            raise ZeroDivisionError
        draft.put(checks=BAD)
    assert store.read(run) == finished


def test_a_stale_or_damaged_record_is_replaced_by_the_failure_that_followed(
    store: Store, make_run: MakeRun, make_record: MakeRecord
) -> None:
    run = make_run(force=True)
    stale = make_record(run, versions=dataclasses.replace(make_record(run).versions, method=0))
    for write in (lambda: store.save(stale, run), lambda: store.path(run).write_text("{")):
        write()
        with pytest.raises(RunFailed, match="ZeroDivisionError"), open_record(run, store):
            raise ZeroDivisionError
        assert store.status(run) == "failed"


def test_no_folder_of_this_machine_enters_the_record(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(data_dir=str(tmp_path))
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, path=f"{tmp_path}/bert"))
    tree = printable_config(run)
    assert str(tmp_path) not in str(tree)
    assert tree["data_dir"] == tmp_path.name
    assert (tree["results_dir"], tree["outputs_dir"], tree["model"]["path"]) == ("results", "outputs", "bert")
    assert tree["train"]["epochs"] == 2 and tree["method"]["k"] == 2


def test_the_command_line_is_kept_without_folders(store: Store, make_run: MakeRun, tmp_path: Path) -> None:
    given = [f"data_dir={tmp_path}/data", f"model.path={tmp_path}/bert", "train.epochs=2", "seed=0"]
    spec = RecordDraft(make_run(overrides=given)).record.spec
    assert spec.overrides == ("data_dir=data", "model.path=bert", "train.epochs=2", "seed=0")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("+model.path=/home/me/bert", "+model.path=bert"),
        ("++data_dir=/home/me/data", "++data_dir=data"),
        ('data_dir="/home/me/date=1/d"', "data_dir=d"),
        ("model.path=~/weights/bert", "model.path=bert"),
        ("outputs_dir=../me/outputs", "outputs_dir=outputs"),
        ("+model={path:/home/me/bert,version:1}", "+model={path:bert,version:1}"),
        ("hydra.run.dir=/home/me/runs", "hydra.run.dir=runs"),
        ("method.list=[/home/me/a,~me/b/c]", "method.list=[a,c]"),
        ("model.source=org/name", "model.source=org/name"),
        ("task.hub.id=https://hub.example/a/b", "task.hub.id=https://hub.example/a/b"),
    ],
)
def test_no_folder_of_an_override_enters_the_record(make_run: MakeRun, given: str, kept: str) -> None:
    assert RecordDraft(make_run(overrides=[given])).record.spec.overrides == (kept,)


def test_the_commit_is_known_inside_a_checkout_only(monkeypatch: pytest.MonkeyPatch) -> None:
    git_state.cache_clear()
    monkeypatch.setenv("PATH", "")  # no git program
    assert git_state() == (None, None)
    git_state.cache_clear()


def test_code_that_differs_from_its_commit_is_told(tmp_path: Path) -> None:
    def checkout(name: str, changed: str | None = None) -> Path:
        root = tmp_path / name
        for file in ("src/code.py", "configs/task.yaml", "run.py", "results/record.json", "README.md"):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text("first\n")
        for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
            author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
            subprocess.run(["git", *author, *arguments], cwd=root, check=True)
        if changed is not None:
            (root / changed).write_text("second\n")
        return root

    commit, dirty = git_state(checkout("clean"))
    assert commit is not None and len(commit) == 40 and dirty is False
    for number, file in enumerate(("src/code.py", "configs/task.yaml", "run.py", "src/new.py")):
        assert git_state(checkout(f"code{number}", file))[1] is True
    for number, file in enumerate(("results/record.json", "README.md", "notes.txt")):
        assert git_state(checkout(f"other{number}", file))[1] is False
    assert git_state(tmp_path) == (None, None)
