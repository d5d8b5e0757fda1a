"""The proof holds phase by phase: what moved while it was frozen, or stayed while it was trained, is seen."""

from __future__ import annotations

import pytest
import torch
from toy_methods import Copies

from layertune.methods import METHODS, Phase, build_method
from layertune.methods.lift import Lift
from layertune.methods.lisa import Lisa
from layertune.models.parameters import checksum, places_of
from layertune.training import train
from layertune.training.proof import Engagement, measured_facts, parameter_facts


@pytest.fixture
def checks_of(prepared, monkeypatch):
    """Train a run whose method is replaced; return its checks."""

    def check(kind, method, *options):
        monkeypatch.setitem(METHODS, kind, method)
        case = prepared(f"method={kind}", "train.batch_size=8", *options)  # 8 steps
        proof = Engagement(case.model)
        return proof.check(case.run, case.model, case.data, case.prep, train(*case.parts))

    return check


def nudge(parameter):
    with torch.no_grad():
        parameter.view(-1)[0].add_(1e-4)


@pytest.mark.parametrize(("kind", "method"), [("lift", Lift), ("lisa", Lisa), ("full", Copies)])
def test_an_honest_run_passes(checks_of, kind, method):
    checks = checks_of(kind, method)
    assert checks.failures() == []
    assert (checks.frozen_unchanged, checks.trained_changed, checks.trainable_matches_selection) == (
        True,
    ) * 3


@pytest.mark.parametrize(("step", "layer"), [(1, 4), (3, 4), (3, 1), (8, 1)])
def test_a_layer_that_moves_in_another_layer_s_phase_is_seen(checks_of, step, layer):
    class Meddling(Lift):
        def after_step(self, model, now):
            if now == step:
                nudge(model.backbone.layers[layer - 1].output.dense.weight)

    assert checks_of("lift", Meddling).failures() == ["frozen_unchanged"]


@pytest.mark.parametrize("phase", [0, 2, 3])
def test_a_layer_that_is_put_back_in_its_own_phase_is_seen(checks_of, phase):
    class Undoing(Lift):
        def start_phase(self, model, now):
            self.layer = model.backbone.layers[self.sequence[now] - 1]
            self.before = {p: p.detach().clone() for p in self.layer.parameters()}
            self.phase = now
            return super().start_phase(model, now)

        def after_step(self, model, step):
            for parameter, value in self.before.items():
                if self.phase == phase:
                    parameter.data.copy_(value)

    assert checks_of("lift", Undoing).failures() == ["trained_changed"]


def test_a_phase_that_trains_more_than_it_says_is_seen(checks_of):
    class Greedy(Lift):
        def start_phase(self, model, phase):
            super().start_phase(model, phase)
            if phase == 2:
                model.backbone.layers[3].requires_grad_(True)
            return model

    assert checks_of("lift", Greedy).failures() == ["trainable_matches_selection"]


WARM_UP = ("train.batch_size=16", "train.warmup_ratio=0.1")  # 4 steps, the first at rate zero


def test_a_phase_that_warm_up_kept_at_rate_zero_has_nothing_to_show(checks_of):
    assert checks_of("lift", Lift, *WARM_UP).failures() == []  # one step per layer


def test_a_layer_that_trained_at_rate_zero_alone_has_nothing_to_show(checks_of):
    class FirstOnce(Lisa):
        def draw(self, interval):
            return (1,) if interval == 0 else (2,)

    assert checks_of("lisa", FirstOnce, "method.every=1", *WARM_UP).failures() == []


@pytest.mark.parametrize("schedule", [("train.warmup_ratio=0.3",), ("train.warmup_ratio=0.0",)])
def test_a_phase_with_one_step_above_rate_zero_has(checks_of, schedule):
    class Undoing(Lift):  # 8 steps, 2 per layer; of 3 steps of warm-up one is at zero
        def after_step(self, model, step):
            if step <= 2:
                model.backbone.layers[0].load_state_dict(self.before)

        def start_phase(self, model, phase):
            if phase == 0:
                self.before = {n: v.clone() for n, v in model.backbone.layers[0].state_dict().items()}
            return super().start_phase(model, phase)

    assert checks_of("lift", Undoing, *schedule).failures() == ["trained_changed"]


def test_a_run_at_rate_zero_has_trained_nothing(checks_of):
    # A schedule that starts anew with every phase of one step: warm-up is all there is.
    class Restarting(Lift):
        def phases(self, total_steps):
            return tuple(Phase(1, restart_schedule=True) for _ in super().phases(total_steps))

    assert checks_of("lift", Restarting, *WARM_UP).failures() == ["trained_changed"]


def test_a_tensor_that_drifts_between_two_of_its_turns_is_seen(checks_of):
    class Drifting(Lisa):
        def after_step(self, model, step):
            for layer in model.backbone.layers:  # as momentum or decay would do
                if not layer.output.dense.weight.requires_grad:
                    nudge(layer.output.dense.weight)

    checks = checks_of("lisa", Drifting, "method.every=2", "method.layers=2")
    assert checks.failures() == ["frozen_unchanged"]


def test_a_tensor_frozen_in_a_copy_must_not_move_there_nor_be_written_back_changed(checks_of):
    class InTheCopy(Copies):
        def after_step(self, model, step):
            nudge(model.backbone.layers[0].output.dense.weight)

        def end_phase(self, model, optimizer, phase):
            with torch.no_grad():
                model.backbone.layers[0].load_state_dict(self.full.backbone.layers[0].state_dict())
            super().end_phase(model, optimizer, phase)

    class InTheModel(Copies):
        def end_phase(self, model, optimizer, phase):
            super().end_phase(model, optimizer, phase)
            nudge(self.full.backbone.layers[0].output.dense.weight)

    assert checks_of("full", InTheCopy).failures() == ["frozen_unchanged"]
    assert checks_of("full", InTheModel).failures() == ["frozen_unchanged"]


def test_a_copy_that_does_not_train_is_seen(checks_of):
    class Stuck(Copies):
        def after_backward(self, model, step):
            self.before = {p: p.detach().clone() for p in model.head.parameters()}

        def after_step(self, model, step):
            for parameter, value in self.before.items():
                parameter.data.copy_(value)

    assert checks_of("full", Stuck).failures() == ["trained_changed"]


def test_counts_are_those_of_the_steps(prepared):
    case = prepared("method=lift", "train.batch_size=8", "method.order=reversed")
    layer = sum(p.numel() for p in case.model.backbone.layers[0].parameters())
    head = sum(p.numel() for p in case.model.head.parameters())
    facts = measured_facts(case.model, case.prep, train(*case.parts))
    assert facts["trainable"] == {
        "backbone": layer,
        "head": head,
        "added": 0,
        "at_once": layer + head,
        "touched": 4 * layer + head,
    }
    assert facts["lowest_trained_layer"] == 1  # the last to train
    assert facts["facts"] == {"layer_order": (4, 3, 2, 1)}


def test_the_mean_over_the_steps_is_told_where_the_count_changes(prepared, monkeypatch):
    class Growing(Lisa):
        def draw(self, interval):
            return tuple(range(4 - interval, 5))  # 4, then 3 and 4

    monkeypatch.setitem(METHODS, "lisa", Growing)
    options = ("method.every=6", "method.freeze_embeddings=true", "train.batch_size=8")
    case = prepared("method=lisa", *options)
    layer = sum(p.numel() for p in case.model.backbone.layers[0].parameters())
    head = sum(p.numel() for p in case.model.head.parameters())
    facts = measured_facts(case.model, case.prep, train(*case.parts))
    assert facts["facts"] == {"mean_trained": layer * (6 + 2 * 2) / 8 + head}
    assert facts["trainable"]["at_once"] == facts["trainable"]["touched"] == 2 * layer + head
    assert facts["lowest_trained_layer"] == 3


def test_what_the_method_counts_itself_goes_first(prepared, monkeypatch):
    class Counting(Lift):
        def facts(self):
            return {"touched": 7, "rounds": 2}

    monkeypatch.setitem(METHODS, "lift", Counting)
    case = prepared("method=lift", "train.batch_size=8")
    facts = measured_facts(case.model, case.prep, train(*case.parts))
    assert facts["trainable"]["touched"] == 7
    assert facts["facts"] == {"layer_order": (1, 2, 3, 4), "rounds": 2}


def test_before_training_a_record_holds_what_preparation_decided(prepared):
    case = prepared("method=lift")
    facts = parameter_facts(case.model, case.prep)
    assert set(facts["trainable"]) == {"backbone", "head", "added"}
    assert build_method(case.run).state_dict() == {"kept": {}}


def test_a_sum_of_bits_sees_the_smallest_update():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        parameter = torch.nn.Parameter(torch.randn(3, 5).to(dtype))
        before = checksum(parameter)
        assert checksum(parameter) == before
        with torch.no_grad():
            parameter[1, 2] = torch.nextafter(parameter[1, 2], parameter.new_tensor(9.0))
        assert checksum(parameter) != before


def test_places_are_layers_below_and_above(prepared):
    places = places_of(prepared("model=tiny_gpt2", "method=full").model)
    assert {place for name, place in places.items() if ".wte." in name or ".wpe." in name} == {0}
    assert {place for name, place in places.items() if ".ln_f." in name or "head." in name} == {None}
    assert {name.split(".")[3]: place for name, place in places.items() if place} == {
        "0": 1,
        "1": 2,
        "2": 3,
        "3": 4,
    }
