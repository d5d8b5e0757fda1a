"""What was inserted trains through the one loop: alone, exactly resumable, nothing below it in the graph."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from added_cases import ALL, WITH_CACHE, added, insert, shake
from tiny_models import batch_of, tiny_task_model
from tiny_runs import NO_DROPOUT, assert_resumes_exactly, assert_same, compose_tiny, weights, whole_but

from layertune.errors import ModelError
from layertune.pipeline import execute
from layertune.records import Store
from layertune.training import loop, train

METHODS = ["lora", "ia3", "adapters", "prefix"]
HEAD = (4 * 32 * 32 + 32) + (32 * 2 + 2)  # concat of 4 layers -> 32 -> 2 classes
ADDED = {  # tiny BERT: 4 layers of 32, inner width 64; tiny GPT-2: inner width 128
    "lora": 4 * 2 * 16 * (32 + 32),
    "adapters": 8 * (2 * 32 * 96 + 96 + 32),
    "prefix": 20 * 2 * 4 * 32,
    "ia3": 4 * (32 + 32 + 64),
}


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2"])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_trains_what_was_added_and_the_head_and_says_so(tmp_path, method, model):
    run = compose_tiny(tmp_path, f"model={model}", f"method={method}", "train.learning_rate=1e-3")
    record = execute(run, Store(tmp_path / "results", tmp_path / "outputs"))
    new = 4 * (32 + 32 + 128) if (method, model) == ("ia3", "tiny_gpt2") else ADDED[method]
    norms = 4 * 2 * 64 if method == "adapters" else 0
    total = new + norms + HEAD
    assert record.model.trainable == {
        "backbone": norms,
        "head": HEAD,
        "added": new,
        "at_once": total,
        "touched": total,
    }
    assert record.model.lowest_trained_layer == 1
    assert record.checks.frozen_unchanged and record.checks.trained_changed
    assert record.checks.trainable_matches_selection and record.checks.loss_finite
    assert record.env.peft is not None
    assert record.model.facts == ({"kept_parameters": 5120} if method == "prefix" else {})


@pytest.mark.parametrize(
    ("method", "model", "precision"),
    whole_but(  # each in bf16 on one of the models
        ((row + column + (precision == "bf16")) % 2 == 0, (method, model, precision))
        for (row, method), (column, model), precision in product(
            enumerate(METHODS), enumerate(["tiny_bert", "tiny_gpt2"]), ["fp32", "bf16"]
        )
    ),
)
def test_the_pretrained_weights_stay_bit_for_bit_and_the_loss_falls(prepared, method, model, precision):
    options = ("train.epochs=4", "train.learning_rate=3e-3", f"train.precision={precision}")
    case = prepared(f"model={model}", f"method={method}", *options)
    before = weights(case.model)
    frozen = {name for name, p in case.model.named_parameters() if not p.requires_grad}
    outcome = train(*case.parts)
    after = weights(case.model)
    assert_same({n: before[n] for n in frozen}, {n: after[n] for n in frozen})
    assert all(not torch.equal(before[name], after[name]) for name in case.prep.added)
    assert outcome.history[-1]["loss"] < outcome.history[0]["loss"]


@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_add_up(prepared, method):
    quiet = [*NO_DROPOUT["tiny_bert"], "train.learning_rate=1e-3", "train.batch_size=32"]
    quiet += ["method.dropout=0.0"] if method == "lora" else []
    losses = []
    for options in ((), ("train.micro_batch=8",)):
        case = prepared(f"method={method}", *quiet, *options)
        losses.append([entry["loss"] for entry in train(*case.parts).history])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("method", [*METHODS, "prefix method.mlp=true"])
def test_a_stopped_run_goes_on_bit_for_bit(prepared, monkeypatch, method):
    assert_resumes_exactly(prepared, monkeypatch, *f"method={method}".split(), "train.learning_rate=1e-3")


@pytest.mark.parametrize(("grid", "rate", "head_rate"), [("paper", None, None), ("fair", 2e-4, 5e-5)])
def test_the_head_trains_at_a_rate_of_its_own_under_the_fair_grid(prepared, grid, rate, head_rate):
    case = prepared("method=lora", f"grid={grid}")
    a_loop = loop._Loop(*case.parts)
    a_loop.phases.enter(0)
    rates = {group["name"]: group["initial_lr"] for group in a_loop.phases.optimizer.param_groups}
    shared = case.run.train.learning_rate
    assert rates == {"backbone": rate or shared, "head": head_rate or shared}
    held = {id(p) for group in a_loop.phases.optimizer.param_groups for p in group["params"]}
    parameters = dict(case.model.named_parameters())
    assert {id(parameters[name]) for name in case.prep.added} < held


def test_added_parameters_leave_the_dropout_of_the_backbone_as_it_is(prepared):
    # Gains of one draw nothing: the first loss, dropout on, is that of a run that trains the head alone.
    losses = []
    for method in ("ia3", "head_only"):
        case = prepared(f"method={method}", "train.batch_size=64")
        losses.append(train(*case.parts).history[0]["loss"])
    assert losses[0] == losses[1]


def gradients(model, seen=None):
    """Gradients of one step in training mode, the dropout always the same."""
    torch.manual_seed(4)
    model.train().zero_grad()
    hook = model.backbone.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: (
            None
            if seen is None
            else seen.append((args[0] if args else kwargs["hidden_states"]).requires_grad)
        ),
        with_kwargs=True,
    )
    model(batch_of([9, 4, 6])).loss.backward()
    hook.remove()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


POSSIBLE = [(m, t) for m in METHODS for t in ALL if m != "prefix" or t in WITH_CACHE]


@pytest.mark.parametrize(("method", "model_type"), POSSIBLE)
def test_no_activation_below_the_first_layer_requires_a_gradient_and_recomputing_changes_none(
    method, model_type
):
    model, seen = tiny_task_model(model_type), []
    shake(added(model, insert(method, model)).values())
    plain = gradients(model, seen)
    assert seen == [False]
    assert set(plain) == {name for name, p in model.named_parameters() if p.requires_grad}
    if model_type == "mpnet":
        with pytest.raises(ModelError, match="does not work here"):
            model.backbone.enable_activation_checkpointing()
        return
    model.backbone.enable_activation_checkpointing()
    recomputed = gradients(model, seen)
    assert not any(seen)
    assert recomputed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert all(gradient.any() for gradient in plain.values())


def test_the_ranks_of_table_10_are_one_switch(prepared):
    for r in (8, 16, 32, 64):
        case = prepared("method=lora", f"method.r={r}")
        assert case.prep.expected_trainable == 4 * 2 * r * 64 + HEAD
        assert case.method.alpha == 2 * r
        assert case.run.identity()["method"] == {"dropout": 0.1, "name": "lora", "r": r}
