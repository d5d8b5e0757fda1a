"""SlimFit: what a unit is, which units a step trains, and that the others hold still."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from added_cases import real_model
from tiny_models import tiny_task_model
from tiny_runs import compose_tiny, weights

from layertune.errors import ConfigError
from layertune.methods import build_method, count
from layertune.methods.slimfit import SlimFit, first_ranks, relative_update, units_of
from layertune.training import loop
from layertune.training.proof import Engagement, measured_facts


@pytest.fixture
def prepared(prepared):
    return partial(prepared, "method=slimfit")


@pytest.mark.parametrize(
    ("model_type", "units"),
    [
        # 3 embeddings and their norm; six matrices and two norms per layer; two matrices of the head.
        ("bert", 4 + 12 * 8 + 2),
        # 2 embeddings and the last norm; four matrices (query, key, value in one) and two norms per layer.
        ("gpt2", 3 + 12 * 6 + 2),
    ],
)
def test_units_are_matrices_and_gains_without_pooler_biases_and_shifts(model_type, units):
    model = real_model(model_type)
    found = units_of(model)
    assert len(found) == units
    assert not any("bias" in name or "pooler" in name for name in found)
    model.kind = "regression"  # its classifier always trains
    assert set(found) - set(units_of(model)) == {"head.out.weight"}


@pytest.mark.parametrize("model_type", ["deberta", "deberta-v2", "llama", "gemma2"])
def test_every_parameter_is_a_unit_or_a_vector_that_always_trains(model_type):
    model = tiny_task_model(model_type)
    units = units_of(model)
    rest = [name for name, _ in model.named_parameters() if name not in units]
    assert all(name.endswith("bias") for name in rest)  # llama and gemma2: of the head alone
    assert len(rest) > 2 or model_type in ("llama", "gemma2")


def test_the_relative_update_is_the_mean_over_all_numbers():
    old = torch.tensor([[1.0, -2.0], [4.0, 0.5]])
    new = torch.tensor([[1.5, -1.0], [4.0, 0.25]])
    assert relative_update(old, new).item() == pytest.approx((0.5 + 0.5 + 0.0 + 0.5) / 4)


def test_zero_over_zero_is_zero_and_a_number_that_leaves_zero_counts_a_thousand():
    old, new = torch.tensor([0.0, 0.0, 1e-30, 2.0]), torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert relative_update(old, new).item() == pytest.approx((0 + 1000 + 1000 + 0.5) / 4)


def hand_made(prepared, rate=0.1):
    """Five units of one number each, all 1, of which floor(0.5 * 5) = 2 are frozen."""
    method = SlimFit(prepared("method.freezing_rate=0.5").run)
    method.units = {name: torch.nn.Parameter(torch.ones(1)) for name in "abcde"}
    method.optimizer_ready(torch.optim.SGD(method.units.values(), lr=rate), 0)
    return method, list(method.units.values())


def test_the_units_of_the_largest_last_updates_train_and_the_frozen_keep_theirs(prepared):
    method, units = hand_made(prepared)
    method.last_updates = torch.tensor([0.03, 0.01, 0.05, 0.02, 0.04], dtype=torch.float64)
    method.before_step(None, 1)
    assert [unit.requires_grad for unit in units] == [True, False, True, False, True]
    with torch.no_grad():
        for unit, moved_by in zip(units, (0.015, 0.0, 0.001, 0.0, 0.3), strict=True):
            unit += moved_by
    method.after_step(None, 1)
    expected = torch.tensor([0.015, 0.01, 0.001, 0.02, 0.3], dtype=torch.float64)
    torch.testing.assert_close(method.last_updates, expected, rtol=0, atol=1e-7)
    method.before_step(None, 2)  # what moved little goes, the frozen d of 0.02 is now among the largest
    assert [unit.requires_grad for unit in units] == [True, False, False, True, True]


def test_a_step_at_rate_zero_measures_nothing(prepared):
    method, units = hand_made(prepared, rate=0.0)
    method.last_updates = torch.tensor([3.0, 1.0, 5.0, 2.0, 4.0])
    for step in (1, 2):  # what was active stays so: it was not tried
        method.before_step(None, step)
        assert [unit.requires_grad for unit in units] == [True, False, True, False, True]
        method.after_step(None, step)
    assert method.last_updates.tolist() == [3.0, 1.0, 5.0, 2.0, 4.0]


def test_equal_updates_freeze_the_first(prepared):
    method, units = hand_made(prepared)
    method.last_updates = torch.zeros(5, dtype=torch.float64)
    method.before_step(None, 1)
    assert [unit.requires_grad for unit in units] == [False, False, True, True, True]


class Noting(SlimFit):
    """Writes down, per step, which tensors were active and which moved."""

    def after_backward(self, model, step):
        self.with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
        self.values = weights(model)

    def after_step(self, model, step):
        super().after_step(model, step)
        now = weights(model)
        moved = {name for name in now if not torch.equal(now[name], self.values[name])}
        names = list(self.units)
        self.seen.append(({names[i] for i in self.active}, self.with_gradient, moved))


def trained(case):
    method = Noting(case.run)
    method.seen = []
    method.prepare(case.model, case.data, case.runtime)
    proof = Engagement(case.model)
    outcome = loop._Loop(case.run, case.model, case.data, method, case.runtime, case.track).train()
    return method, proof, outcome


OFTEN = ("train.batch_size=4", "train.learning_rate=1e-2", "method.freezing_rate=0.8")


def test_frozen_units_have_no_gradient_and_neither_momentum_nor_decay_moves_them(prepared):
    case = prepared(*OFTEN)  # 16 steps: long enough to meet units that have momentum
    assert case.run.train.weight_decay == 0.01
    method, proof, outcome = trained(case)
    always = {name for name in weights(case.model) if name not in method.units}
    changes = 0
    for number, (active, with_gradient, moved) in enumerate(method.seen):
        assert len(active) == 38 - int(0.8 * 38) == 8
        assert with_gradient == active | always
        assert moved <= active | always
        assert moved >= active - {"backbone.model.embeddings.token_type_embeddings.weight"}
        changes += number > 0 and active != method.seen[number - 1][0]
    assert changes > 5
    checks = proof.check(case.run, case.model, case.data, case.prep, outcome)
    assert checks.failures() == [] and checks.frozen_unchanged is True


def test_every_unit_is_tried_first_in_the_order_of_the_draw(prepared):
    method, _, _ = trained(prepared(*OFTEN))
    order = torch.argsort(first_ranks(38, 0), descending=True).tolist()
    names = list(method.units)
    for step in range(4):  # 8 of 38 at a time: the fifth step has fewer untried ones left
        assert method.seen[step][0] == {names[i] for i in order[8 * step : 8 * step + 8]}
    assert {name for active, _, _ in method.seen[:5] for name in active} == set(names)


def test_what_trained_at_once_on_average_and_ever_is_in_the_record(prepared):
    case = prepared(*OFTEN)
    method, _, outcome = trained(case)
    sizes = {name: p.numel() for name, p in case.model.named_parameters()}
    per_step = [sum(sizes[name] for name in got) for _, got, _ in method.seen]
    facts = measured_facts(case.model, case.prep, outcome)
    assert facts["trainable"]["at_once"] == max(per_step)
    assert facts["trainable"]["touched"] == sum(sizes.values())
    assert facts["facts"]["mean_trained"] == pytest.approx(sum(per_step) / len(per_step))
    assert facts["facts"]["units"] == 38 and facts["facts"]["units_frozen"] == 30


def test_the_pooler_stays_out_and_the_model_is_left_as_it_was_prepared(prepared):
    case = prepared("model.pooler=true")
    trained(case)
    assert not any(p.requires_grad for p in case.model.backbone.pooler.parameters())
    trainable = count(p for p in case.model.parameters() if p.requires_grad)
    assert trainable == case.prep.expected_trainable


def test_the_rate_is_the_task_s_unless_it_is_given(tmp_path):
    def rate(*overrides):
        run = compose_tiny(tmp_path, "method=slimfit", *overrides)
        return build_method(run).freezing_rate, run.train.learning_rate

    assert rate("task=qnli", "grid=fair", "protocol=paper") == (0.95, 5e-5)
    assert rate("task=stsb", "grid=fair", "protocol=paper") == (0.85, 8e-5)
    assert rate("task=mrpc", "grid=fair", "protocol=paper") == (0.90, 1.25e-4)
    assert rate("task=snli", "protocol=paper") == (0.80, 2e-5)
    assert rate("task=trec", "grid=fair", "protocol=paper") == (0.90, 8e-5)
    assert rate("task=qnli", "method.freezing_rate=0.5", "protocol=paper") == (0.5, 2e-5)


def test_the_identity_holds_the_rate_in_force_and_no_other_task_s(tmp_path):
    run = compose_tiny(tmp_path, "task=qnli", "method=slimfit", "protocol=paper")
    assert run.identity()["method"] == {"name": "slimfit", "freezing_rate": 0.95}
    assert "by_task" not in json.dumps(run.method.options)


@pytest.mark.parametrize("rate", ["1.0", "-0.1", "true", "high"])
def test_a_rate_out_of_range_is_refused(tmp_path, rate):
    with pytest.raises(ConfigError, match=r"method\.freezing_rate=.* is not allowed"):
        build_method(compose_tiny(tmp_path, "method=slimfit", f"method.freezing_rate={rate}"))
