"""LISA: other layers every few steps, a memory that waits, and what always trains."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import torch
from test_methods import BERT_LAYER, HEAD
from tiny_runs import compose_tiny, weights

from layertune.errors import ConfigError
from layertune.methods import build_method, count
from layertune.methods.lisa import Lisa
from layertune.models.parameters import places_of
from layertune.training import loop, train
from layertune.training.proof import Engagement


@pytest.fixture
def prepared(prepared):
    return partial(prepared, "method=lisa", "method.layers=2")


def trained_by_step(case):
    """Train; return per step the places that had a gradient and those whose weights changed, and the loop."""
    seen = []

    class Noting(Lisa):
        def after_backward(self, model, step):
            self.before = weights(model)
            self.active = {places[n] for n, p in model.named_parameters() if p.grad is not None}

        def after_step(self, model, step):
            now = weights(model)
            seen.append((self.active, {places[n] for n in now if not torch.equal(now[n], self.before[n])}))

    places = places_of(case.model)
    method = Noting(case.run)
    method.prepare(case.model, case.data, case.runtime)
    a_loop = loop._Loop(case.run, case.model, case.data, method, case.runtime, case.track)
    return seen, a_loop.train(), a_loop


def test_the_layers_change_every_few_steps_and_frozen_ones_truly_hold_still(prepared):
    case = prepared("method.every=3", "train.batch_size=8", "train.epochs=2", "train.learning_rate=1e-2")
    seen, outcome, _ = trained_by_step(case)
    draws = [build_method(case.run).draw(interval) for interval in range(6)]  # 16 steps
    assert len(set(draws)) > 2 and all(len(set(draw)) == 2 for draw in draws)
    for step, (active, changed) in enumerate(seen):
        assert active == changed == {0, None, *draws[step // 3]}  # no momentum, no decay elsewhere
    (report,) = outcome.phases
    assert report.held_still is True
    embeddings = count(case.model.backbone.model.embeddings.parameters())
    assert report.at_once == 2 * BERT_LAYER + HEAD + embeddings


def test_embeddings_may_stay_frozen_for_a_fair_count(prepared):
    case = prepared("method.freeze_embeddings=true", "method.every=1", "train.batch_size=8")
    seen, outcome, _ = trained_by_step(case)
    assert all(len(active) == 3 and 0 not in active for active, _ in seen)
    assert outcome.phases[0].at_once == 2 * BERT_LAYER + HEAD
    assert case.prep.expected_trainable == 4 * BERT_LAYER + HEAD


def test_the_proof_holds_when_every_layer_has_had_its_turn(prepared):
    case = prepared("method.every=1", "train.batch_size=8", "train.epochs=2")
    proof = Engagement(case.model)
    outcome = train(*case.parts)
    assert len(outcome.phases[0].touched) == len(outcome.phases[0].trainable)
    checks = proof.check(case.run, case.model, case.data, case.prep, outcome)
    assert checks.failures() == [] and checks.frozen_unchanged is True


def test_a_layer_s_adam_state_waits_for_its_next_turn(prepared):
    case = prepared("method.every=1", "train.batch_size=8")
    seen, _, a_loop = trained_by_step(case)
    turns = Counter(place for active, _ in seen for place in active)
    for number, layer in enumerate(case.model.backbone.layers, start=1):
        state = a_loop.phases.optimizer.state.get(layer.output.dense.weight, {})
        assert int(state.get("step", 0)) == turns[number]


def test_draws_are_uniform_without_replacement_and_follow_from_the_seed(prepared):
    method = build_method(prepared("seed=5").run)
    assert [method.draw(i) for i in range(50)] == [build_method(method.run).draw(i) for i in range(50)]
    drawn = Counter(layer for interval in range(2000) for layer in method.draw(interval))
    assert set(drawn) == {1, 2, 3, 4}
    assert all(abs(times - 1000) < 100 for times in drawn.values())  # 4.5 standard deviations of 22
    other = build_method(prepared("seed=6").run)
    assert [method.draw(i) for i in range(50)] != [other.draw(i) for i in range(50)]


@pytest.mark.parametrize("option", ["method.layers=5", "method.layers=0", "method.every=0"])
def test_what_cannot_be_drawn_is_refused(tmp_path, option):
    with pytest.raises(ConfigError, match=r"method\.(layers|every)=.* is (out of range|not allowed)"):
        build_method(compose_tiny(tmp_path, "method=lisa", option))


def test_the_unused_pooler_stays_out(prepared):
    case = prepared("model.pooler=true")
    assert not any(p.requires_grad for p in case.model.backbone.pooler.parameters())
    assert case.prep.expected_trainable == count(p for p in case.model.parameters() if p.requires_grad)
