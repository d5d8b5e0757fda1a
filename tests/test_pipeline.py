"""From a configuration to a record: what is skipped, what fails, and what is left behind."""

from __future__ import annotations

import errno
import json
import math
import signal
import sys
import weakref
from pathlib import Path

import pytest
import torch
from tiny_runs import composed

from layertune import pipeline
from layertune.config.kept import keeps_model_of
from layertune.errors import ConfigError, DataError, Interruption, RecordError, RunFailed
from layertune.models import load_tokenizer
from layertune.pipeline import execute
from layertune.records import Store, read_record
from layertune.records.record import ChecksRecord
from layertune.records.writer import RecordDraft
from layertune.saved import keep
from layertune.training import loop


@pytest.fixture
def request_run(tmp_path):
    def make(*overrides):
        given = {item.split("=")[0] for item in overrides}
        defaults = ("model=tiny_bert", "task=demo", "method=low_k", "protocol=smoke", "tracking=disabled")
        folders = (f"outputs_dir={tmp_path / 'outputs'}", f"results_dir={tmp_path / 'results'}")
        return composed(*(d for d in defaults if d.split("=")[0] not in given), *folders, *overrides)

    return make


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results", tmp_path / "outputs")


def files_below(folder):
    return sorted(path.name for path in folder.rglob("*.json")) if folder.exists() else []


def test_a_run_becomes_a_complete_record(request_run, store):
    run = request_run("method.k=2")
    record = execute(run, store)
    assert record == read_record(store.path(run))
    assert (record.status, record.error, record.checks.failures()) == ("done", None, [])
    assert record.run_id.startswith("tiny_bert-demo-low_k-k2-s0-")
    assert record.identity.config_sha256 == run.config_sha256
    assert record.model.tokenizer_key == load_tokenizer(run.model)[1]
    assert record.data.counts == {"train": 64, "demo": 64} and "synthetic" in record.data.status
    selection = record.selection
    assert len(selection.layers) == 2 and len(selection.scores) == len(selection.matrix) == 4
    assert set(selection.layers) == set(sorted(range(1, 5), key=lambda i: selection.scores[i - 1])[:2])
    assert record.training.steps == 4 and len(record.training.history) == 1
    assert record.metrics.last["demo"] == record.training.history[-1]["metrics"]["demo"]
    assert record.metrics.best["epoch"] == 1
    assert record.training.origin["epochs"] == "protocol smoke"


def test_a_finished_run_is_found_and_only_force_repeats_it(request_run, store, monkeypatch):
    run = request_run()
    first = execute(run, store)
    monkeypatch.setattr(pipeline, "prepare_runtime", lambda run: pytest.fail("worked again"))
    assert execute(run, store) == first
    monkeypatch.undo()
    again = execute(request_run("force=true"), store)
    assert again.run_id == first.run_id
    assert again.training.history[0]["loss"] == first.training.history[0]["loss"]


def test_a_damaged_record_under_its_name_is_a_sentence_and_force_repeats_the_run(request_run, store):
    run = request_run()
    path = store.path(run)
    path.parent.mkdir(parents=True)
    for content in (b"", b"[" * 100_000, b"\xff\xfe", b'{"schema": 99}', b"null"):
        path.write_bytes(content)
        with pytest.raises(RecordError, match=rf"{path.name} .*force=true"):
            execute(run, store)
        assert path.read_bytes() == content
    assert execute(request_run("force=true"), store).status == store.status(run) == "done"
    path.unlink()
    path.mkdir()
    with pytest.raises(RecordError, match=path.name):
        execute(run, store)
    with pytest.raises(ConfigError, match="folder"):  # before hours of training
        execute(request_run("force=true"), store)


def test_a_record_of_older_versions_is_stale_and_repeated(request_run, store):
    run = request_run()
    execute(run, store)
    newer = request_run("method.version=2")
    assert newer.run_id == run.run_id and store.status(newer) == "stale"
    assert execute(newer, store).versions.method == 2


def test_a_failed_run_leaves_its_traceback(request_run, store, monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("seven")

    run = request_run()
    monkeypatch.setattr(pipeline, "train", broken)
    with pytest.raises(RunFailed, match="ZeroDivisionError: seven"):
        execute(run, store)
    record = read_record(store.path(run))
    assert record.status == "failed" == store.status(run)
    assert "ZeroDivisionError: seven" in record.error and "in broken" in record.error
    assert record.data is not None and record.training is None
    monkeypatch.undo()
    assert execute(run, store).status == "done"


def test_running_out_of_memory_is_a_status_of_its_own(request_run, store, monkeypatch):
    def hungry(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(pipeline, "train", hungry)
    with pytest.raises(RunFailed):
        execute(request_run(), store)
    assert store.status(request_run()) == "oom"


def test_after_a_failed_job_none_of_its_memory_is_held(request_run, store, monkeypatch):
    alive, real = [], torch.optim.AdamW.step

    def failing(optimizer, *args):
        alive.append(weakref.ref(optimizer))
        alive.extend(weakref.ref(weight) for group in optimizer.param_groups for weight in group["params"])
        real(optimizer, *args)
        raise ArithmeticError("on purpose") from KeyError("a cause")

    monkeypatch.setattr(torch.optim.AdamW, "step", failing)
    with pytest.raises(RunFailed) as held:  # as Hydra holds it to the end of a sweep
        execute(request_run(), store)
    assert len(alive) > 10 and [found for found in alive if found() is not None] == []
    assert "on purpose" in str(held.value) and "on purpose" in store.read(request_run()).error


def test_ctrl_c_leaves_an_interrupted_record(request_run, store, monkeypatch):
    def pressed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "train", pressed)
    with pytest.raises(KeyboardInterrupt):
        execute(request_run(), store)
    assert store.status(request_run()) == "interrupted"


@pytest.mark.parametrize("error", [ConfigError, DataError])
def test_a_request_that_cannot_be_met_leaves_no_record(request_run, store, monkeypatch, tmp_path, error):
    def refused(*args):
        raise error("no such rows")

    monkeypatch.setattr(pipeline, "load_task", refused)
    with pytest.raises(error):
        execute(request_run(), store)
    assert files_below(tmp_path) == []


def test_a_loss_that_is_not_finite_fails_the_run(request_run, store, monkeypatch):
    real = pipeline.build_model

    def poisoned(*args):
        model = real(*args)
        with torch.no_grad():
            model.head.out.bias.fill_(math.nan)
        return model

    monkeypatch.setattr(pipeline, "build_model", poisoned)
    with pytest.raises(RunFailed, match="loss_finite"):
        execute(request_run("method=head_only"), store)
    record = read_record(store.path(request_run("method=head_only")))
    assert record.checks.loss_finite is False and record.metrics is None
    assert json.loads(record.to_json())["training"]["history"][0]["loss"] is None


def test_a_full_disk_loses_no_earlier_record(request_run, store, monkeypatch):
    run = request_run()
    execute(run, store)
    before = store.path(run).read_bytes()

    fills_up_at_the_record(monkeypatch)
    with pytest.raises(OSError, match="No space left"):
        execute(request_run("force=true", "method=low_k"), store)
    assert store.path(run).read_bytes() == before
    assert [path.name for path in store.path(run).parent.iterdir()] == [store.path(run).name]


def fills_up_at_the_record(monkeypatch):
    """Let the disk be full once training has ended."""

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    def conclude(draft):
        monkeypatch.setattr("layertune.config.files.os.fsync", full)
        return real(draft)

    real = RecordDraft.conclude
    monkeypatch.setattr(RecordDraft, "conclude", conclude)


def checkpoints(run):
    return sorted((run.cache_dir.parent / "checkpoints").glob("*"))


def test_a_record_that_could_not_be_written_costs_no_training(request_run, store, monkeypatch):
    run = request_run("checkpoint.every_steps=100", "train.epochs=2")
    whole = execute(request_run("train.epochs=2"), store)
    store.path(run).unlink()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        fills_up_at_the_record(patch)
        execute(run, store)
    assert len(checkpoints(run)) == 1 and not store.path(run).exists()

    monkeypatch.setattr(loop._Loop, "_train_epoch", lambda *_: pytest.fail("trained again"))
    record = execute(run, store)
    assert (record.metrics, record.checks, record.model) == (whole.metrics, whole.checks, whole.model)
    assert read_record(store.path(run)) == record and checkpoints(run) == []


def test_a_checkpoint_goes_when_its_record_is_there_done_or_failed(request_run, store, monkeypatch):
    kept = "checkpoint.every_steps=100"
    run = request_run(kept)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(pipeline, "remove_checkpoint", lambda *_, **__: sys.exit())  # killed between the two
        execute(run, store)
    assert len(checkpoints(run)) == 1 and store.find(run) is not None
    execute(run, store)  # is done
    assert checkpoints(run) == []

    false = ChecksRecord(False, True, True, True, None)
    monkeypatch.setattr(pipeline.Engagement, "check", lambda *_: false)
    with pytest.raises(RunFailed, match="frozen_unchanged"):
        execute(request_run(kept, "seed=1"), store)
    assert checkpoints(run) == []


@pytest.mark.parametrize("place", ["write_form", "_put"])  # killed while it writes, or moves it in place
def test_a_model_that_could_not_be_kept_costs_no_training(request_run, store, monkeypatch, tmp_path, place):
    run = request_run("checkpoint.every_steps=100", f"save={tmp_path / 'kept'}")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(keep, place, lambda *_: sys.exit())  # killed when the record was written
        execute(run, store)
    first = store.find(run)
    assert first is not None and len(checkpoints(run)) == 1

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(RunFailed, match="checkpoint"):
        patch.setattr(keep, "_put", full)
        execute(run, store)
    assert len(checkpoints(run)) == 1

    monkeypatch.setattr(loop._Loop, "_train_epoch", lambda *_: pytest.fail("trained again"))
    record = execute(run, store)
    assert (record.metrics, record.model) == (first.metrics, first.model)
    assert keeps_model_of(run) and checkpoints(run) == []


def test_a_command_without_save_leaves_the_checkpoint_of_one_that_keeps_its_model(
    request_run, store, monkeypatch, tmp_path
):
    every = "checkpoint.every_steps=100"
    kept, plain = request_run(every, f"save={tmp_path / 'kept'}"), request_run(every)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        fills_up_at_the_record(patch)
        execute(kept, store)
    monkeypatch.setattr(loop._Loop, "_train_epoch", lambda *_: pytest.fail("trained again"))
    for _ in range(2):  # goes on from the checkpoint, then is done
        execute(plain, store)
        assert len(checkpoints(plain)) == 1
    execute(kept, store)
    assert keeps_model_of(kept) and checkpoints(kept) == []


def test_a_model_is_put_in_its_place_as_a_whole(request_run, store, monkeypatch, tmp_path):
    run = request_run("checkpoint.every_steps=100", f"save={tmp_path / 'kept'}")
    real = Path.replace

    def killed_at_the_first(path, target):
        real(path, target)
        if Path(target).name == "kept":
            sys.exit()

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(Path, "replace", killed_at_the_first)
        execute(run, store)
    assert keeps_model_of(run)


@pytest.mark.parametrize(
    ("place", "protocol"), [("results_dir", "paper"), ("outputs_dir", "paper"), ("outputs_dir", "quick")]
)
def test_folders_that_cannot_be_written_to_are_refused_before_any_work(
    request_run, tmp_path, place, protocol, monkeypatch
):
    monkeypatch.setattr(pipeline, "prepare_runtime", lambda run: pytest.fail("worked"))
    (tmp_path / "file").write_text("in the way")
    run = request_run(f"protocol={protocol}", f"{place}={tmp_path}/file/x")
    with pytest.raises(ConfigError, match=f"{tmp_path}/file/x") as refused:
        execute(run, Store(run.results_dir, run.outputs_dir))
    assert "Not a directory" in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]  # nothing is left of the attempt


def test_a_full_disk_is_noticed_before_any_work(request_run, store, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pipeline, "prepare_runtime", lambda run: pytest.fail("worked"))
    monkeypatch.setattr("layertune.config.files.os.fsync", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        execute(request_run(), store)
    assert list(tmp_path.iterdir()) == []


def test_scoring_alone_trains_nothing_and_is_another_run(request_run, store):
    run = request_run("stage=score", "method.k=1")
    record = execute(run, store)
    assert record.selection.layers is not None and record.training is None and record.metrics is None
    assert store.find(request_run("method.k=1")) is None


def test_scores_are_shared_by_methods_and_seeds_and_their_cost_is_kept(request_run, store):
    first = execute(request_run("method=low_k"), store).selection
    other = execute(request_run("method=high_k", "seed=42"), store).selection
    assert (first.reused, other.reused) == (False, True)
    assert other.scores == first.scores and other.seconds == first.seconds
    assert not execute(request_run("task.max_length=16"), store).selection.reused
    assert not execute(request_run("model.representative=last"), store).selection.reused
    assert not execute(request_run("method=euclidean_low_k"), store).selection.reused


def test_a_damaged_score_file_is_not_trusted(request_run, store, caplog):
    run = request_run()
    scores = execute(run, store).selection.scores
    (path,) = (run.cache_dir / "scores").glob("*/facts.json")
    path.write_text(path.read_text()[:40])
    again = execute(request_run("seed=1"), store).selection
    assert again.scores == scores and not again.reused
    assert path.parent.name in caplog.text


def test_random_layers_follow_the_seed(request_run, store):
    chosen = {
        seed: execute(request_run("method=random_k", "method.k=2", f"seed={seed}"), store).selection.layers
        for seed in (0, 1, 2, 3, 4)
    }
    assert len(set(chosen.values())) > 1
    again = execute(request_run("method=random_k", "method.k=2", "seed=3", "force=true"), store)
    assert again.selection.layers == chosen[3]


def test_foreign_splits_are_scored_at_the_last_and_at_the_best_epoch_only(request_run, store, tmp_path):
    folder = tmp_path / "data"
    for name in ("sst2", "imdb"):
        (folder / name).mkdir(parents=True)
        rows = [{"sentence": f"{word} thing {i}", "label": i % 2} for i in range(24) for word in ("a", "the")]
        for split in ("train", "validation", "test"):
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / name / f"{split}.jsonl").write_text(text)
    record = execute(request_run("task=sst2_imdb", f"data_dir={folder}", "train.epochs=3"), store)
    assert set(record.metrics.last) == {"sst2", "imdb"}
    assert set(record.metrics.best) == {"sst2", "imdb", "epoch"}
    assert all(set(entry["metrics"]) == {"sst2"} for entry in record.training.history)
    assert record.data.status == "local + subset" or record.data.status == "local"


def test_regression_is_trained_on_the_raw_score(request_run, store, tmp_path):
    folder = tmp_path / "data" / "stsb"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        rows = [
            {"sentence1": f"one {i}", "sentence2": f"two {i % 7}", "label": (i % 11) / 2} for i in range(40)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = execute(request_run("task=stsb", f"data_dir={tmp_path / 'data'}"), store)
    assert set(record.metrics.last["stsb"]) == {"pearson", "spearman"}
    assert record.checks.beats_majority is None
    assert record.training.history[0]["loss"] == pytest.approx(9, abs=3)  # mean square of 0..5 around 0: 8.75


@pytest.mark.slow
def test_the_mirror_of_a_run_holds_the_heat_map_and_the_record_says_so(request_run, store, tmp_path):
    record = execute(request_run("tracking=offline"), store)
    assert (record.tracking.wandb_mode, record.tracking.wandb_id) == ("offline", record.run_id)
    (picture,) = (tmp_path / "outputs" / "wandb").rglob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kept", [True, False])
def test_a_run_that_is_stopped_before_it_trains_leaves_a_record_that_says_so(
    request_run, store, monkeypatch, number, kept
):
    before = signal.getsignal(number)
    monkeypatch.setattr(pipeline, "build_model", lambda *_: signal.raise_signal(number))
    run = request_run(*["checkpoint.every_steps=5"] * kept)
    with pytest.raises(KeyboardInterrupt, match="asked to stop") as stopped:
        execute(run, store)
    assert isinstance(stopped.value, Interruption) is kept  # the same command goes on, exit code 75
    record = read_record(store.path(run))
    assert (record.status, record.data, record.training) == ("interrupted", None, None)
    assert signal.getsignal(number) == before
