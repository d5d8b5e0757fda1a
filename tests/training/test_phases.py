"""Phases: when each hook is called, which optimiser and schedule it gets, other models, and exact resume."""

from __future__ import annotations

import signal
from itertools import product

import pytest
import torch
from tiny_runs import NO_DROPOUT, assert_same, timeless, weights, whole_but, with_foreign
from toy_methods import Copies, Diary

from layertune.errors import Interruption
from layertune.methods import METHODS, Full, Phase
from layertune.training import loop, train
from layertune.training.proof import Engagement, measured_facts

TWO_EPOCHS = ("method=full", "train.epochs=2", "train.learning_rate=1e-3")  # of four steps each


@pytest.fixture
def toy(prepared, monkeypatch):
    """Prepare a run of one of the methods made for tests."""

    def make(method, *overrides):
        monkeypatch.setitem(METHODS, "full", method)
        return prepared(*(overrides or TWO_EPOCHS))

    return make


@pytest.fixture
def interrupted(monkeypatch):
    """Return a function that trains until a step, then resumes the run from its checkpoint."""
    real = loop._Loop._step

    def run_twice(make, stop):
        def step_then_signal(self, indices):
            loss = real(self, indices)
            if self.step == stop:
                signal.raise_signal(signal.SIGTERM)
            return loss

        monkeypatch.setattr(loop._Loop, "_step", step_then_signal)
        with pytest.raises(Interruption):
            train(*make().parts)
        monkeypatch.setattr(loop._Loop, "_step", real)
        torch.rand(3)  # whatever happened in between
        case = make()
        return case, train(*case.parts)

    return run_twice


def test_every_hook_is_called_at_its_time(toy):
    case = toy(Diary)
    train(*case.parts)
    assert case.method.calls == [
        *("start 0", "ready 0", "epoch 1", 1, 2, 3, "end 0"),
        *("start 1", "ready 1", 4, "evaluate", "epoch 2", 5, 6, "end 1"),
        *("start 2", "ready 2", 7, 8, "evaluate", "end 2"),
    ]


def test_a_phase_that_ends_with_an_epoch_is_evaluated_before_it_ends(toy):
    class Halves(Diary):
        def phases(self, total_steps):
            return Phase(4), Phase(4)

    case = toy(Halves)
    train(*case.parts)
    calls = [call for call in case.method.calls if isinstance(call, str)]
    assert calls == [
        *("start 0", "ready 0", "epoch 1", "evaluate", "end 0"),
        *("start 1", "ready 1", "epoch 2", "evaluate", "end 1"),
    ]


def rates(case):
    """Train and return the learning rate of every step."""
    seen = []

    class Noting(type(case.method)):
        def after_backward(self, model, step):
            seen.append(a_loop.phases.optimizer.param_groups[0]["lr"])

    method = Noting(case.run)
    method.prepare(case.model, case.data, case.runtime)
    a_loop = loop._Loop(case.run, case.model, case.data, method, case.runtime, case.track)
    a_loop.train()
    return seen


def test_one_schedule_spans_the_phases_unless_one_restarts_it(toy):
    options = ("method=full", "train.epochs=2", "train.learning_rate=0.008")
    assert rates(toy(Diary, *options)) == pytest.approx([0.001 * left for left in range(8, 0, -1)])
    restarted = [0.008 * left / 3 for left in (3, 2, 1)] + [0.008 * left / 5 for left in (5, 4, 3, 2, 1)]
    assert rates(toy(Copies, *options)) == pytest.approx(restarted)


def test_the_timing_protocol_plans_its_steps_and_warms_up_in_the_first_phase(toy):
    small = ("protocol=timing", "protocol.warmup_steps=2", "protocol.max_steps=7", "train.batch_size=32")
    case = toy(Diary, "method=full", *small)
    train(*case.parts)
    starts = [index for index, call in enumerate(case.method.calls) if str(call).startswith("start")]
    steps = [sum(isinstance(c, int) for c in case.method.calls[:i]) for i in starts]
    assert steps == [0, 2 + 3, 2 + 3 + 3]


@pytest.mark.parametrize("cut", [(), (8, 1), (4, 0, 4)])
def test_phases_that_do_not_make_up_the_run_are_a_mistake_of_the_method(toy, cut):
    class Wrong(Full):
        def phases(self, total_steps):
            return tuple(map(Phase, cut))

    with pytest.raises(ValueError, match="cuts 8 steps into"):
        train(*toy(Wrong).parts)


def test_the_method_says_how_many_epochs_there_are(toy):
    class Twice(Full):
        def epochs(self, epochs):
            return 2 * epochs

    outcome = train(*toy(Twice).parts)
    assert outcome.epochs == 4
    assert [(entry["epoch"], entry["steps"]) for entry in outcome.history] == [
        (1, 4),
        (2, 8),
        (3, 12),
        (4, 16),
    ]


def test_a_copy_is_trained_evaluated_and_written_back(toy, monkeypatch):
    evaluated = []
    real = loop.score_epoch
    monkeypatch.setattr(
        loop, "score_epoch", lambda run, model, *rest: evaluated.append(model) or real(run, model, *rest)
    )
    case = toy(Copies)
    before = weights(case.model)
    proof = Engagement(case.model)
    outcome = train(*case.parts)
    assert len(evaluated) == 2 and case.model not in evaluated
    layer = {
        f"backbone.model.encoder.layer.0.{n}" for n, _ in case.model.backbone.layers[0].named_parameters()
    }
    moved = {n for n, value in weights(case.model).items() if not torch.equal(value, before[n])}
    assert moved and moved.isdisjoint(layer)
    checks = proof.check(case.run, case.model, case.data, case.prep, outcome)
    assert checks.failures() == [] and checks.frozen_unchanged is True
    facts = measured_facts(case.model, case.prep, outcome)
    assert facts["trainable"]["at_once"] == facts["trainable"]["touched"] == case.prep.expected_trainable


@pytest.fixture(scope="module")
def unbroken():
    """Return a function that trains a run to its end, once per name: its weights and its outcome."""
    known = {}

    def train_once(name, make):
        if name not in known:
            case = make()
            outcome = train(*case.parts)
            known[name] = weights(case.model), outcome
        return known[name]

    return train_once


@pytest.mark.parametrize("stop", [1, 3, 4, 5, 6, 8])  # 3 and 6 end a phase, 4 and 8 an epoch
def test_a_copy_in_training_is_resumed_bit_for_bit(toy, interrupted, unbroken, stop):
    def make(*extra):
        return with_foreign(toy(Copies, *TWO_EPOCHS, *extra))

    whole, expected = unbroken("copies", make)
    case, outcome = interrupted(lambda: make("checkpoint.every_steps=100"), stop)
    assert_same(whole, weights(case.model))
    assert timeless(outcome.history) == timeless(expected.history)
    assert (outcome.last, outcome.best, outcome.phases) == (expected.last, expected.best, expected.phases)


CHANGING = [
    ("method=lift",),
    ("method=lift", "method.order=cyclic", "method.period=1"),
    ("method=lift", "method.order=random", "train.precision=bf16", "train.micro_batch=4"),
    ("method=lisa", "method.layers=2", "method.every=3"),
    ("method=lisa", "method.layers=1", "method.every=1", "train.precision=bf16", "train.micro_batch=4"),
    ("method=slimfit", "train.precision=bf16", "train.micro_batch=4"),
    ("method=slimfit", "method.quantise=true"),
    ("method=recap", "method.rounds=2", "train.precision=bf16"),
]


STOPS = {2: "the end of a phase of lift", 5: "within a phase", 8: "the end of the run"}


@pytest.mark.parametrize(
    ("options", "stop"),
    whole_but(  # each at one of them, and LIFT at all
        (number < 2 or number % 3 == place, (options, stop))
        for (number, options), (place, stop) in product(enumerate(CHANGING), enumerate(STOPS))
    ),
)
def test_methods_that_change_what_they_train_resume_bit_for_bit(
    prepared, interrupted, unbroken, options, stop
):
    def make(*extra):
        return with_foreign(prepared(*options, *TWO_EPOCHS[1:], *extra))

    whole, expected = unbroken(options, make)
    case, outcome = interrupted(lambda: make("checkpoint.every_steps=100"), stop)
    assert_same(whole, weights(case.model))
    assert timeless(outcome.history) == timeless(expected.history)
    assert (outcome.last, outcome.best, outcome.phases) == (expected.last, expected.best, expected.phases)
    assert outcome.facts == expected.facts and bool(expected.facts) == ("method=recap" in options)


@pytest.mark.parametrize("method", ["lift", "lisa"])
def test_the_best_epoch_s_weights_come_back_whole_where_the_trained_layers_changed(
    prepared, monkeypatch, method
):
    case = with_foreign(prepared(f"method={method}", *TWO_EPOCHS[1:]))
    seen, own_scores = [], iter([0.9, 0.2])
    at_epoch = []

    def own(*_):
        at_epoch.append(weights(case.model))
        return {"demo": {"accuracy": next(own_scores)}}

    monkeypatch.setattr(loop, "score_epoch", own)
    monkeypatch.setattr(
        loop, "score_rest", lambda _, model, *__: seen.append(weights(model)) or {"other": {}}
    )
    train(*case.parts)
    assert_same(seen[0], at_epoch[1])
    assert_same(seen[1], at_epoch[0])  # also the layers that trained after it
    assert_same(weights(case.model), at_epoch[1])


def test_foreign_splits_of_the_best_epoch_are_scored_while_its_model_is_there(toy, monkeypatch):
    case = with_foreign(toy(Copies))
    own_scores, seen = iter([0.9, 0.2]), []
    monkeypatch.setattr(loop, "score_epoch", lambda *_: {"demo": {"accuracy": next(own_scores)}})

    def foreign(_, model, *__):
        seen.append(weights(model))
        return {"other": {"accuracy": len(seen) / 10}}

    monkeypatch.setattr(loop, "score_rest", foreign)
    outcome = train(*case.parts)
    assert (outcome.best["other"], outcome.last["other"]) == ({"accuracy": 0.1}, {"accuracy": 0.2})
    assert_same(seen[1], weights(case.model))  # the last copy, as it was written back


@pytest.mark.parametrize("method", ["lift", "lisa", "slimfit", "recap"])
def test_accumulation_equals_the_whole_batch(prepared, method):
    fewer = ("method.rounds=1",) if method == "recap" else ()
    options = (f"method={method}", *fewer, *TWO_EPOCHS[1:], *NO_DROPOUT["tiny_bert"])
    cases = [prepared(*options), prepared(*options, "train.micro_batch=4")]
    for case in cases:
        case.model.double()  # rounding is no excuse then
        train(*case.parts)
    assert_same(weights(cases[0].model), weights(cases[1].model), atol=1e-10)
