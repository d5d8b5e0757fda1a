"""Exact resume: a run that was stopped goes on as if nothing had happened, or says why it cannot."""

from __future__ import annotations

import pickle
import signal
import threading

import numpy as np
import pytest
import torch
from tiny_runs import assert_same, prepare, timeless, weights, with_foreign

from layertune.config import ConfigError
from layertune.training import Interruption, checkpoint, loop, train
from layertune.training.checkpoint import CheckpointError

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


@pytest.mark.parametrize(
    "stop", [1, 4, 5, 8]
)  # within an epoch, at its end, in the next one, at the very end
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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
    assert checkpoints(resumed) == []


def test_the_state_is_written_at_every_multiple_of_the_steps_asked_for(prepared, monkeypatch):
    written = []
    real = checkpoint.write_atomic
    monkeypatch.setattr(
        checkpoint, "write_atomic", lambda path, content: written.append(path) or real(path, content)
    )
    case = prepared(*OPTIONS, EVERY)
    train(*case.parts)
    assert [path.name for path in written] == [f"{case.run.run_id}.pt"] * 2  # after steps 3 and 6 of 8
    assert checkpoints(case) == []


def test_without_checkpoints_nothing_is_written(prepared, monkeypatch):
    monkeypatch.setattr(checkpoint, "write_atomic", lambda *_: pytest.fail("written"))
    train(*prepared(*OPTIONS).parts)


def test_a_failure_after_the_last_step_keeps_the_checkpoint(prepared, monkeypatch):
    def lost(*_):
        raise RuntimeError("the disk is gone")

    case = with_foreign(prepared(*OPTIONS, EVERY))
    monkeypatch.setattr(loop, "score_rest", lost)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        train(*case.parts)
    assert len(checkpoints(case)) == 1


def damaged(content: bytes) -> list[bytes]:
    return [b"", b"not a checkpoint", content[: len(content) // 2], pickle.dumps({"progress": {}})]


def test_a_damaged_checkpoint_is_one_sentence_that_names_the_file(prepared, stop_at):
    stop_at(2)
    stopped = prepared(*OPTIONS, EVERY)
    with pytest.raises(Interruption):
        train(*stopped.parts)
    stop_at(None)
    (path,) = checkpoints(stopped)
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as found:
            train(*prepared(*OPTIONS, EVERY).parts)
        sentence = str(found.value)
        assert str(path) in sentence and sentence.endswith("delete it, and the run starts anew.")
        assert "\n" not in sentence
        assert isinstance(found.value, ConfigError)  # no record, exit code 2
    path.unlink()
    assert train(*prepared(*OPTIONS, EVERY).parts).steps == 8


def test_the_state_of_older_versions_is_left_aside(prepared, stop_at, caplog):
    stop_at(2)
    stopped = prepared(*OPTIONS, EVERY)
    with pytest.raises(Interruption):
        train(*stopped.parts)
    stop_at(None)
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
    (path,) = checkpoints(case)
    state = torch.load(path, weights_only=False)["progress"]["phases"]
    assert set(state["model"]) == {n for n, p in case.model.named_parameters() if p.requires_grad}
    assert state["trained"] == {}  # no other model than that of the run
