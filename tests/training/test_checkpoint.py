"""Exact resume: a run that was stopped goes on as if nothing had happened, or says why it cannot."""

from __future__ import annotations

import dataclasses
import errno
import math
import random
import shutil
import signal
import sys
import threading

import numpy as np
import pytest
import torch
from tiny_runs import assert_same, prepare, timeless, weights, with_foreign

from layertune.errors import CheckpointError, ConfigError, Interruption
from layertune.training import checkpoint, loop, train
from layertune.training.checkpoint import read_state

# 64 rows in batches of 16, twice: steps 1-4 and 5-8; dropout is on, so the random state matters.
OPTIONS = ("train.epochs=2", "train.learning_rate=1e-3")
EVERY = "checkpoint.every_steps=3"


def checkpoints(case):
    return sorted((case.run.cache_dir.parent / "checkpoints").glob("*"))


@pytest.fixture
def stop_at(monkeypatch):
    """Return a function that sends this process a signal at the end of one step."""
    real = loop._Loop._step

    def arm(step, number=signal.SIGTERM):
        def step_then_signal(self, indices):
            loss = real(self, indices)
            if self.step == step:
                signal.raise_signal(number)
            return loss

        monkeypatch.setattr(loop._Loop, "_step", step_then_signal)

    yield arm


@pytest.fixture
def falling_scores(monkeypatch):
    """Make the first epoch the best one, and let a foreign score tell the weights it was taken at."""

    def use():
        scores = iter([0.9, 0.5])
        monkeypatch.setattr(loop, "score_epoch", lambda *_: {"demo": {"accuracy": next(scores)}})
        monkeypatch.setattr(loop, "score_rest", lambda _, model, *__: {"other": {"sum": total(model)}})

    return use


def total(model):
    return float(sum(value.double().abs().sum() for value in weights(model).values()))


@pytest.mark.parametrize(  # within an epoch, at its end, in the next one, at the very end
    ("stop", "number"), [(1, signal.SIGTERM), (4, signal.SIGINT), (5, signal.SIGINT), (8, signal.SIGTERM)]
)
def test_a_stopped_run_goes_on_bit_for_bit(prepared, stop_at, falling_scores, stop, number):
    whole = with_foreign(prepared(*OPTIONS))
    falling_scores()
    expected = train(*whole.parts)

    falling_scores()
    stop_at(stop, number)
    stopped = with_foreign(prepared(*OPTIONS, EVERY))
    with pytest.raises(Interruption, match="the same command goes on"):
        train(*stopped.parts)
    stop_at(None)
    torch.rand(3)  # whatever happened in between
    resumed = with_foreign(prepared(*OPTIONS, EVERY))
    outcome = train(*resumed.parts)

    assert_same(weights(whole.model), weights(resumed.model))
    assert timeless(outcome.history) == timeless(expected.history)
    assert (outcome.last, outcome.best, outcome.steps) == (expected.last, expected.best, expected.steps)
    assert outcome.best["epoch"] == 1 and outcome.best["other"] != outcome.last["other"]
    assert outcome.phases == expected.phases
    assert len(resumed.track.entries) + len(stopped.track.entries) == 2  # no epoch twice, none lost


def test_the_state_is_written_at_every_multiple_of_the_steps_asked_for_and_at_the_end(prepared, monkeypatch):
    written = []
    real = checkpoint.write_state
    monkeypatch.setattr(
        checkpoint, "write_state", lambda folder, *what: written.append(folder) or real(folder, *what)
    )
    case = prepared(*OPTIONS, EVERY)
    train(*case.parts)
    (folder,) = checkpoints(case)  # it stays until there is a record
    assert folder.name == case.run.run_id
    assert written == [folder] * 3  # after steps 3, 6 and 8
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]


@pytest.fixture
def full_disk(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_state", full)


@pytest.mark.usefixtures("full_disk")
def test_a_checkpoint_that_cannot_be_written_stops_no_training(prepared, stop_at, caplog):
    assert train(*prepared(*OPTIONS, EVERY).parts).steps == 8
    assert caplog.text.count("could not be written (No space left on device)") == 3
    stop_at(5)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(*prepared(*OPTIONS, EVERY).parts)
    assert not isinstance(stopped.value, Interruption)  # nothing to go on from was promised


def test_without_checkpoints_nothing_is_written(prepared):
    case = prepared(*OPTIONS)
    train(*case.parts)
    assert checkpoints(case) == []


def test_a_failure_after_the_last_step_keeps_the_checkpoint(prepared, monkeypatch):
    def lost(*_):
        raise RuntimeError("the disk is gone")

    case = with_foreign(prepared(*OPTIONS, EVERY))
    monkeypatch.setattr(loop, "score_rest", lost)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        train(*case.parts)
    assert len(checkpoints(case)) == 1


@pytest.fixture
def stopped(prepared, stop_at):
    """Stop a run after its second step."""
    stop_at(2)
    case = prepared(*OPTIONS, EVERY)
    with pytest.raises(Interruption):
        train(*case.parts)
    stop_at(None)
    return case


def refused(prepared, *options):
    """Train where the checkpoint cannot be used; return the sentence that says why."""
    with pytest.raises(CheckpointError) as found:
        train(*prepared(*OPTIONS, EVERY, *options).parts)
    assert isinstance(found.value, ConfigError)  # no record, exit code 2
    return str(found.value)


def test_a_damaged_checkpoint_is_one_sentence_that_says_what_to_do(prepared, stopped):
    (folder,) = checkpoints(stopped)
    for path in sorted(folder.iterdir()):
        intact = path.read_bytes()
        path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
        sentence = refused(prepared)
        assert str(folder) in sentence and path.name in sentence and "\n" not in sentence
        assert sentence.endswith("delete it or say force=true, and the run starts anew.")
        path.write_bytes(intact)
    shutil.rmtree(folder)
    assert train(*prepared(*OPTIONS, EVERY).parts).steps == 8


@pytest.mark.parametrize("other", ["seed=1", "train.learning_rate=2e-3", "train.head_learning_rate=1e-4"])
def test_the_checkpoint_of_another_run_under_this_one_s_name_is_refused(prepared, stopped, other):
    (folder,) = checkpoints(stopped)
    here = prepared(*OPTIONS, EVERY, other)
    folder.rename(folder.with_name(here.run.run_id))
    assert "not of this run and configuration" in refused(prepared, other)


def test_a_checkpoint_of_other_rows_or_another_device_is_refused(prepared, stopped, monkeypatch):
    case = prepared(*OPTIONS, EVERY)
    store = dataclasses.replace(case.data.train.store, ids=case.data.train.store.ids + 1)
    split = dataclasses.replace(case.data.train, store=store)
    case.data = dataclasses.replace(case.data, train=split)
    with pytest.raises(CheckpointError, match="not of this data"):
        train(*case.parts)
    a_checkpoint = checkpoint.Checkpoint(case.run, stopped.data, torch.device("cuda"))
    with pytest.raises(CheckpointError, match="not of this device"):
        a_checkpoint.resume(lambda _: pytest.fail("taken up"))


def test_a_checkpoint_of_other_trained_tensors_is_refused(prepared, stop_at):
    options = ("method=layers", "method.layers=[1,2]", EVERY)
    stop_at(2)
    with pytest.raises(Interruption):
        train(*prepared(*options).parts)
    stop_at(None)
    case = prepared(*options)
    moved = {1: 3, 2: 4}
    for old, new in moved.items():  # as if scores had come out otherwise
        case.model.backbone.layers[old - 1].requires_grad_(False)
        case.model.backbone.layers[new - 1].requires_grad_(True)
    with pytest.raises(CheckpointError, match="other tensors"):
        train(*case.parts)


def test_force_starts_over_and_goes_on_from_what_was_forced(prepared, stopped, stop_at, caplog):
    (folder,) = checkpoints(stopped)
    caplog.set_level("INFO")
    stop_at(5)
    with pytest.raises(Interruption):  # after step 5 of its own
        train(*prepared(*OPTIONS, EVERY, "force=true").parts)
    assert "starts anew" in caplog.text and "resuming" not in caplog.text
    stop_at(None)
    case = prepared(*OPTIONS, EVERY, "force=true")
    train(*case.parts)
    assert "resuming" in caplog.text
    assert [entry["epoch"] for entry in case.track.entries] == [2]
    (folder / "state.json").write_bytes(b"{}")
    assert train(*prepared(*OPTIONS, EVERY, "force=true").parts).steps == 8
    assert "cannot be used" in caplog.text


def cost(outcome):
    names = ("seconds", "cpu_seconds", "examples_per_second", "tokens_per_second", "peak_memory_bytes")
    names += ("evaluation_seconds",)
    return {name: getattr(outcome, name) for name in names}


def test_a_run_whose_training_had_ended_trains_and_evaluates_nothing_again(prepared, monkeypatch):
    options = ("method=recap", "method.rounds=1", *OPTIONS, EVERY)
    first = with_foreign(prepared(*options))
    expected = train(*first.parts)
    for name in ("_train_epoch", "_close_epoch", "_score_rest"):
        monkeypatch.setattr(loop._Loop, name, lambda *_, name=name: pytest.fail(name))
    again = with_foreign(prepared(*options))
    outcome = train(*again.parts)
    assert_same(weights(first.model), weights(again.model))
    # the peak of the last checkpoint; what came after it was read by the first run alone
    assert outcome.peak_memory_bytes > 0.99 * expected.peak_memory_bytes > 0
    assert {**vars(outcome), **cost(expected)} == vars(expected)
    assert outcome.seconds == pytest.approx(expected.seconds, rel=0.1)  # writing back is done again


def test_what_waited_is_scored_by_a_run_that_was_killed_meanwhile(prepared, monkeypatch):
    """The weights of the last and the best epoch are there; with `fast` also how the last layer runs."""
    options = ("method=low_k", "method.k=1", "train=fast", *OPTIONS, EVERY)
    expected = train(*with_foreign(prepared(*options[:-1])).parts)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(loop._Loop, "_score_rest", lambda *_: sys.exit())
        train(*with_foreign(prepared(*options)).parts)
    monkeypatch.setattr(loop._Loop, "_train_epoch", lambda *_: pytest.fail("trained again"))
    outcome = train(*with_foreign(prepared(*options)).parts)
    assert (outcome.last, outcome.best) == (expected.last, expected.best)
    assert (outcome.cache.used, outcome.cache.layer) == (expected.cache.used, expected.cache.layer)


def test_a_loss_that_is_not_finite_ends_a_resumed_run_as_any_other(prepared, monkeypatch):
    real = loop._Loop._step

    def diverges(self, indices):
        loss = real(self, indices)
        return loss * math.nan if self.step >= 2 else loss

    monkeypatch.setattr(loop._Loop, "_step", diverges)
    expected = train(*prepared(*OPTIONS).parts)

    def stops(self, indices):
        if self.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return diverges(self, indices)

    with monkeypatch.context() as patch, pytest.raises(Interruption):
        patch.setattr(loop._Loop, "_step", stops)
        train(*prepared(*OPTIONS, EVERY).parts)
    for _ in range(2):  # in the middle of its epoch, then when all is over
        outcome = train(*prepared(*OPTIONS, EVERY).parts)
        assert (outcome.loss_finite, outcome.steps, outcome.last) == (False, 4, {})
        assert [entry["steps"] for entry in outcome.history] == [4]
        assert math.isnan(outcome.history[0]["loss"]) and math.isnan(expected.history[0]["loss"])


def test_the_random_state_is_that_of_the_run_s_device_alone(prepared, monkeypatch):
    """Of all devices that were visible another one may be missing when the run goes on."""
    asked = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: asked.append(device) or torch.ones(16))
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: asked.append((state.sum(), device))
    )
    case = prepared(*OPTIONS, EVERY)
    for device in (torch.device("cuda", 1), torch.device("cuda", 0)):
        a_checkpoint = checkpoint.Checkpoint(case.run, case.data, device)
        a_checkpoint.resume(lambda _: None)
        a_checkpoint.save({})
    assert asked == [torch.device("cuda", 1), (16, torch.device("cuda", 0)), torch.device("cuda", 0)]


def test_every_random_generator_goes_on_where_it_was(prepared):
    case = prepared(*OPTIONS, EVERY)
    a_checkpoint = checkpoint.Checkpoint(case.run, case.data, case.runtime.device)
    np.random.normal()  # the second of a pair waits
    a_checkpoint.save({})
    draws = [(random.random(), np.random.normal(), float(torch.rand(1)))]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    a_checkpoint.resume(lambda _: None)
    assert draws == [(random.random(), np.random.normal(), float(torch.rand(1)))]


def test_the_state_of_older_versions_is_left_aside(prepared, stopped, caplog):
    newer = prepared(*OPTIONS, EVERY, "method.version=2")
    assert newer.run.run_id == stopped.run.run_id
    outcome = train(*newer.parts)
    assert "older versions" in caplog.text
    fresh = prepared(*OPTIONS)
    assert timeless(outcome.history) == timeless(train(*fresh.parts).history)
    assert_same(weights(newer.model), weights(fresh.model))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_without_checkpoints_stops_at_once(prepared, stop_at, number):
    stop_at(2, number)
    case = prepared(*OPTIONS)
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(*case.parts)
    assert not isinstance(stopped.value, Interruption)  # there is nothing to resume
    assert case.track.entries == []


@pytest.mark.parametrize("options", [(), (EVERY,)])
def test_signals_have_their_old_meaning_afterwards(prepared, options):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    train(*prepared(*options).parts)
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_run_in_a_thread_cannot_listen_and_says_so(tiny_run, caplog):
    case = prepare(tiny_run(EVERY))
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(train(*case.parts)))
    thread.start()
    thread.join()
    assert outcomes[0].steps == 4
    assert "cannot stop cleanly" in caplog.text


def test_only_trained_weights_are_kept(prepared):
    case = prepared("method=top_k", "method.k=1", EVERY)
    a_loop = loop._Loop(*case.parts)
    a_loop._step(np.arange(16))
    a_loop.checkpoint.save(a_loop._progress())
    (folder,) = checkpoints(case)
    state = read_state(folder)[1]["progress"]["phases"]
    assert set(state["model"]) == {n for n, p in case.model.named_parameters() if p.requires_grad}
    assert state["trained"] == {}  # no other model than that of the run
