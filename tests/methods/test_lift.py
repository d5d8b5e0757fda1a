"""LIFT: one layer at a time, all of them over the run, no memory of a layer that is done."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import torch
from added_cases import real_language_model, real_model
from test_methods import BERT_LAYER, HEAD
from tiny_runs import assert_same, compose_tiny, weights

from layertune.errors import ConfigError
from layertune.methods import build_method, count
from layertune.methods.lift import Lift, layer_order
from layertune.models.parameters import places_of
from layertune.training import loop


@pytest.fixture
def prepared(prepared):
    return partial(prepared, "method=lift")


def diary_of(case):
    """Train and write down, per step, which layers had a gradient and the optimiser's memory of each."""
    seen = []
    places = places_of(case.model)

    class Noting(Lift):
        def after_backward(self, model, step):
            active = {places[n] for n, p in model.named_parameters() if p.grad is not None}
            state = a_loop.phases.optimizer.state
            memory = {places[n]: int(state[p]["step"]) for n, p in model.named_parameters() if state.get(p)}
            seen.append((active, memory, a_loop.phases.schedule.get_last_lr()[0]))

    method = Noting(case.run)
    method.prepare(case.model, case.data, case.runtime)
    a_loop = loop._Loop(case.run, case.model, case.data, method, case.runtime, case.track)
    outcome = a_loop.train()
    return seen, outcome, a_loop


def test_exactly_one_layer_and_the_head_train_at_a_time_and_all_do_over_the_run(prepared):
    # 64 rows in batches of 8: 8 steps for 4 layers, two steps each.
    case = prepared("train.batch_size=8")
    before = weights(case.model)
    seen, outcome, _ = diary_of(case)
    assert [active for active, *_ in seen] == [{layer, None} for layer in (1, 1, 2, 2, 3, 3, 4, 4)]
    after = weights(case.model)
    for name, place in places_of(case.model).items():
        key_bias = name.endswith("key.bias")  # its gradient is zero but for rounding
        assert key_bias or torch.equal(before[name], after[name]) == (place == 0), name
    assert [report.at_once for report in outcome.phases] == [BERT_LAYER + HEAD] * 4


def test_each_layer_changes_in_its_own_phase_alone(prepared):
    case = prepared("train.batch_size=8")
    changed = {}

    class Comparing(Lift):
        def before_step(self, model, step):
            self.kept_weights = weights(model)

        def after_step(self, model, step):
            places = places_of(model)
            now = weights(model)
            changed[step] = {places[n] for n in now if not torch.equal(now[n], self.kept_weights[n])}

    method = Comparing(case.run)
    method.prepare(case.model, case.data, case.runtime)
    loop._Loop(case.run, case.model, case.data, method, case.runtime, case.track).train()
    assert changed == {step: {layer, None} for step, layer in enumerate((1, 1, 2, 2, 3, 3, 4, 4), start=1)}


def test_a_layer_s_adam_state_is_dropped_and_the_head_s_is_kept(prepared):
    seen, _, a_loop = diary_of(prepared("train.batch_size=8"))
    memories = [memory for _, memory, _ in seen]
    assert memories == [
        {},
        {1: 1, None: 1},
        {None: 2},
        {2: 1, None: 3},
        {None: 4},
        {3: 1, None: 5},
        {None: 6},
        {4: 1, None: 7},
    ]
    assert not any(p.grad is not None for p in a_loop.model.parameters())


def test_one_decay_spans_all_phases(prepared):
    seen, *_ = diary_of(prepared("train.batch_size=8", "train.learning_rate=0.008"))
    assert [rate for *_, rate in seen] == pytest.approx([0.001 * left for left in range(8, 0, -1)])


def test_the_remainder_goes_to_the_last_phases_and_too_few_steps_reach_the_last_layers(prepared):
    method = build_method(prepared().run)
    assert [phase.steps for phase in method.phases(14)] == [3, 3, 4, 4]
    assert [phase.steps for phase in method.phases(3)] == [1, 1, 1]
    assert method.sequence == (2, 3, 4)
    assert not any(phase.restart_schedule for phase in method.phases(14))


def test_orders():
    assert layer_order("sequential", 4, 0) == (1, 2, 3, 4)
    assert layer_order("reversed", 4, 0) == (4, 3, 2, 1)
    drawn = {layer_order("random", 4, seed) for seed in range(20)}
    assert len(drawn) > 5 and all(sorted(order) == [1, 2, 3, 4] for order in drawn)
    assert layer_order("random", 12, 42) == layer_order("random", 12, 42)


@pytest.mark.parametrize("order", ["reversed", "random"])
def test_the_order_is_followed_and_recorded(prepared, order):
    case = prepared("train.batch_size=8", f"method.order={order}", "seed=3")
    wanted = layer_order(order, 4, 3)
    assert case.prep.facts == {"layer_order": wanted} and wanted != (1, 2, 3, 4)
    seen, *_ = diary_of(case)
    assert [active - {None} for active, *_ in seen[::2]] == [{layer} for layer in wanted]


def test_in_cyclic_order_each_layer_s_adam_state_waits_on_the_cpu(prepared):
    case = prepared("train.batch_size=8", "train.epochs=2", "method.order=cyclic", "method.period=3")
    seen, outcome, _ = diary_of(case)
    turns = [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 1, 1, 1, 2]
    assert [active - {None} for active, *_ in seen] == [{layer} for layer in turns]
    done = Counter()
    for layer, (_, memory, _) in zip(turns, seen, strict=True):
        assert memory.get(layer, 0) == done[layer]  # picked up where it was left
        done[layer] += 1
    assert [report.steps for report in outcome.phases] == [3, 3, 3, 3, 3, 1]


def test_moments_survive_a_turn_of_other_layers(prepared):
    case = prepared("train.batch_size=8", "train.epochs=2", "method.order=cyclic", "method.period=2")
    found = {}

    class Noting(Lift):
        def end_phase(self, model, optimizer, phase):
            self.note(model, optimizer, phase, "end")
            super().end_phase(model, optimizer, phase)

        def optimizer_ready(self, optimizer, phase):
            super().optimizer_ready(optimizer, phase)
            self.note(case.model, optimizer, phase, "start")

        def note(self, model, optimizer, phase, when):
            state = optimizer.state.get(model.backbone.layers[0].output.dense.weight)
            if state:
                found[phase, when] = {name: value.clone() for name, value in state.items()}

    method = Noting(case.run)
    method.prepare(case.model, case.data, case.runtime)
    loop._Loop(case.run, case.model, case.data, method, case.runtime, case.track).train()
    assert set(found) == {(0, "end"), (4, "start"), (4, "end")}
    assert_same(found[0, "end"], found[4, "start"])
    assert found[4, "end"]["step"] == 4


@pytest.mark.parametrize(
    "options", [("method.order=backwards",), ("method.period=5",), ("method.order=cyclic", "method.period=0")]
)
def test_an_order_or_a_period_that_cannot_be_is_refused(tmp_path, options):
    with pytest.raises(ConfigError, match=r"method\.(order|period)=.* (does not exist|is not allowed)"):
        build_method(compose_tiny(tmp_path, "method=lift", *options))


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_counts_on_the_real_configurations(tmp_path, model_type):
    model = real_model(model_type)
    method = build_method(compose_tiny(tmp_path, "method=lift", "model.num_layers=12"))
    prep = method.prepare(model, None, None)
    assert len(method.phases(120)) == 12
    touched = set()
    for phase in range(12):
        method.start_phase(model, phase)
        active = {p for p in model.parameters() if p.requires_grad}
        assert count(active) == prep.expected_trainable == method.expected_in_phase(phase)
        assert count(active - set(model.head.parameters())) == 7_087_872
        touched |= active
    assert count(touched - set(model.head.parameters())) == 85_054_464


def test_counts_in_generation_leave_the_tied_head_out(tmp_path):
    model = real_language_model("gpt2")
    method = build_method(compose_tiny(tmp_path, "method=lift", "model.num_layers=12"))
    assert method.prepare(model, None, None).expected_trainable == 7_087_872
