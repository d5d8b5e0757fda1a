"""What a run reports: history, both read-outs, and seconds that belong to the steps alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from tiny_runs import assert_same, weights, with_foreign

from layertune import runtime
from layertune.training import loop, train

RATE = "train.learning_rate=1e-2"  # large enough for two epochs to differ


class Clock:
    """A clock that moves only when told to."""

    now = 0.0

    def pass_by(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock of training; a step takes 1 s, its warm-up 100 s, an evaluation 1,000 s."""
    clock = Clock()
    fake = SimpleNamespace(perf_counter=lambda: clock.now, process_time=lambda: clock.now / 2)
    monkeypatch.setattr(runtime, "time", fake)
    step, score = loop._Loop._step, loop.score_epoch

    def slow_step(self, indices):
        warm = self.step >= (self.run.protocol.warmup_steps or 0)
        clock.pass_by(1.0 if warm else 100.0)
        return step(self, indices)

    def slow_score(*arguments):
        clock.pass_by(1000.0)
        return score(*arguments)

    monkeypatch.setattr(loop._Loop, "_step", slow_step)
    monkeypatch.setattr(loop, "score_epoch", slow_score)
    return clock


def test_seconds_are_those_of_the_steps_without_evaluation_and_checkpoints(prepared, clock, monkeypatch):
    real = loop.Checkpoint.save
    monkeypatch.setattr(loop.Checkpoint, "save", lambda *a: (clock.pass_by(50.0), real(*a)))
    case = prepared("train.epochs=2", "checkpoint.every_steps=3")
    outcome = train(*case.parts)
    assert [entry["seconds"] for entry in outcome.history] == [4.0, 4.0]
    assert (outcome.seconds, outcome.cpu_seconds, outcome.seconds_per_step_median) == (8.0, 4.0, 1.0)
    assert [entry["evaluation_seconds"] for entry in outcome.history] == [1000.0, 1000.0]
    assert outcome.evaluation_seconds == 2000.0
    assert outcome.examples_per_second == 128 / 8
    assert outcome.tokens_per_second == 2 * case.data.train.store.lengths.sum() / 8  # padding does not count


def test_the_timing_protocol_counts_the_steps_after_the_warm_up_alone(prepared, clock, monkeypatch):
    case = prepared(
        "protocol=timing", "protocol.warmup_steps=2", "protocol.max_steps=5", "train.batch_size=32"
    )
    monkeypatch.setattr(loop, "score_epoch", lambda *_: pytest.fail("evaluated"))
    a_loop = loop._Loop(*case.parts)
    outcome = a_loop.train()
    assert a_loop.watch.steps == [1.0] * 5
    assert (outcome.steps, outcome.seconds, outcome.seconds_per_step_median) == (7, 5.0, 1.0)
    assert outcome.step_seconds == (0.5,) * 5  # of this clock a CPU second is half a second
    assert outcome.examples_per_second == 32.0
    assert (outcome.last, outcome.best) == ({}, {})


def test_timing_repeats_the_first_batches_whatever_the_method(prepared):
    options = ("protocol=timing", "protocol.train_examples=48", "train.batch_size=16")
    few = ("protocol.warmup_steps=3", "protocol.max_steps=5")
    loops = [loop._Loop(*prepared(f"method={m}", *options, *few).parts) for m in ("full", "head_only")]
    orders = [[tuple(batch) for batch in a_loop.batches(1)] for a_loop in loops]
    assert orders[0] == orders[1]
    assert len(orders[0]) == 8
    assert orders[0] == (orders[0][:3] * 3)[:8]  # three batches make an epoch


def test_the_loss_of_an_epoch_is_the_mean_over_its_steps(prepared, monkeypatch):
    losses = iter([1.0, 2.0, 3.0, 4.5, 10.0, 0.0, 0.0, 2.0])

    def known(self, indices):
        self.step += 1
        return torch.tensor(next(losses))

    monkeypatch.setattr(loop._Loop, "_step", known)
    history = loop._Loop(*prepared("train.epochs=2").parts).train().history
    assert [entry["loss"] for entry in history] == [2.625, 3.0]


def test_every_epoch_has_one_entry_with_all_metrics_and_the_mirror_sees_the_same(prepared):
    case = prepared("train.epochs=3")
    outcome = train(*case.parts)
    assert [entry["epoch"] for entry in outcome.history] == [1, 2, 3]
    assert [entry["steps"] for entry in outcome.history] == [4, 8, 12]
    for entry in outcome.history:
        assert set(entry) == {"epoch", "steps", "loss", "seconds", "evaluation_seconds", "metrics"}
        assert set(entry["metrics"]) == {"demo"}
        assert set(entry["metrics"]["demo"]) == {"accuracy", "f1_macro"}
    assert case.track.entries == list(outcome.history)
    assert outcome.last == outcome.history[-1]["metrics"]


def test_the_last_epoch_alone_is_scored_where_the_protocol_says_so_and_scores_what_it_would_anyway(prepared):
    each = train(*prepared("train.epochs=3", RATE).parts)
    once = train(*prepared("train.epochs=3", RATE, "protocol.every_epoch=false").parts)
    assert [bool(entry["metrics"]) for entry in once.history] == [False, False, True]
    assert once.last == each.last and once.best["epoch"] == 3
    assert [entry["loss"] for entry in once.history] == [entry["loss"] for entry in each.history]


def test_foreign_splits_are_scored_at_the_last_and_the_best_weights_and_the_last_ones_stay(
    prepared, monkeypatch
):
    case = with_foreign(prepared("train.epochs=3", RATE))
    seen, at_epoch, own_scores = [], [], iter([0.2, 0.9, 0.9])

    def own(*_):
        at_epoch.append(weights(case.model))
        return {"demo": {"accuracy": next(own_scores)}}

    def foreign(_, model, *__):
        seen.append(weights(model))
        return {"other": {"accuracy": len(seen) / 10}}

    monkeypatch.setattr(loop, "score_epoch", own)
    monkeypatch.setattr(loop, "score_rest", foreign)
    outcome = train(*case.parts)
    assert len(seen) == 2
    assert_same(seen[0], at_epoch[2])  # the last epoch
    assert_same(seen[1], at_epoch[1])  # the first of the two best
    assert not torch.equal(at_epoch[1]["head.out.weight"], at_epoch[2]["head.out.weight"])
    assert_same(weights(case.model), at_epoch[2])
    assert outcome.last == {"demo": {"accuracy": 0.9}, "other": {"accuracy": 0.1}}
    assert outcome.best == {"demo": {"accuracy": 0.9}, "other": {"accuracy": 0.2}, "epoch": 2}


def test_foreign_splits_are_really_evaluated(prepared):
    outcome = train(*with_foreign(prepared(RATE)).parts)
    assert outcome.last["other"] == outcome.last["demo"]  # the same rows under another name
    assert outcome.best["other"] == outcome.best["demo"]


def test_without_foreign_splits_no_second_copy_of_the_weights_is_kept(prepared):
    a_loop = loop._Loop(*prepared("train.epochs=2").parts)
    a_loop.train()
    assert a_loop.best.epoch is not None and a_loop.best.kept == {}


def test_training_stops_in_the_epoch_whose_loss_is_not_finite(prepared, monkeypatch):
    real = loop._Loop._step

    def breaks(self, indices):
        loss = real(self, indices)
        return loss * float("nan") if self.step == 6 else loss

    monkeypatch.setattr(loop._Loop, "_step", breaks)
    outcome = train(*prepared("train.epochs=4").parts)
    assert (outcome.steps, outcome.loss_finite) == (8, False)  # the second epoch ends, the third never starts
    assert [bool(entry["metrics"]) for entry in outcome.history] == [True, False]
    assert (outcome.last, outcome.best) == ({}, {})  # no score of a broken run is reported
