"""The one loop, held against a loop written out here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_runs import NO_DROPOUT, assert_same, weights

from layertune.methods import optimised
from layertune.tasks import epoch_batches
from layertune.training import train
from layertune.training.loop import _Loop

QUIET = NO_DROPOUT["tiny_bert"]


def plain_loop(case, *, rate, schedule=lambda step, total: 1 - step / total, clip=None):
    """Algorithm 1's last line in plain torch: unfused AdamW (§4.4), by default linear decay to zero."""
    run, model, data = case.run, case.model, case.data
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=rate, betas=(0.9, 0.99), weight_decay=0.01, eps=1e-8, foreach=False, fused=False
    )
    epochs = [
        epoch_batches(
            data.train.store.lengths, run.train.batch_size, seed=run.seed, epoch=epoch, task=run.task.name
        )
        for epoch in range(1, run.train.epochs + 1)
    ]
    total, step, means = sum(map(len, epochs)), 0, []
    model.train()
    for batches in epochs:
        losses = []
        for indices in batches:
            for group in optimizer.param_groups:
                group["lr"] = rate * schedule(step, total)
            optimizer.zero_grad()
            loss = model(data.train.store.batch(indices)).loss
            loss.backward()
            if clip is not None:
                norm = math.sqrt(sum(float(p.grad.square().sum()) for p in trained))
                for parameter in trained:
                    parameter.grad *= min(1.0, clip / (norm + 1e-6))
            optimizer.step()
            losses.append(loss.item())
            step += 1
        means.append(sum(losses) / len(losses))
    return means


def in_double(case):
    """Rounding is no excuse then, not even for gradients that are zero but for it and that Adam blows up."""
    case.model.double()
    return case


@pytest.mark.parametrize("method", ["full", "low_k", "head_only"])
def test_the_loop_equals_a_plain_torch_loop(prepared, method):
    options = (f"method={method}", "train.epochs=2", "train.learning_rate=1e-3", *QUIET)
    ours, plain = in_double(prepared(*options)), in_double(prepared(*options))
    before = weights(ours.model)
    outcome = train(*ours.parts)
    means = plain_loop(plain, rate=1e-3)
    assert [entry["loss"] for entry in outcome.history] == pytest.approx(means, abs=1e-6)
    assert_same(weights(ours.model), weights(plain.model), atol=1e-10)
    assert not torch.equal(before["head.out.weight"], weights(ours.model)["head.out.weight"])
    assert outcome.steps == 8  # 64 rows in batches of 16, twice


def test_warm_up_cosine_clipping_and_smoothing_equal_a_plain_loop_too(prepared):
    options = (
        "method=full",
        "train.epochs=2",
        "train.learning_rate=1e-3",
        "train.schedule=cosine",
        "train.warmup_ratio=0.25",
        "train.clip_norm=0.1",
        "train.label_smoothing=0.1",
        *QUIET,
    )

    def schedule(step, total):  # 8 steps, the first two warm up
        return step / 2 if step < 2 else 0.5 * (1 + math.cos(math.pi * (step - 2) / (total - 2)))

    ours, plain = in_double(prepared(*options)), in_double(prepared(*options))
    assert plain.model.label_smoothing == 0.1
    outcome = train(*ours.parts)
    means = plain_loop(plain, rate=1e-3, schedule=schedule, clip=0.1)
    assert [entry["loss"] for entry in outcome.history] == pytest.approx(means, abs=1e-6)
    assert_same(weights(ours.model), weights(plain.model), atol=1e-10)


def test_micro_batches_give_the_weights_of_the_whole_batch(prepared):
    options = ("train.batch_size=24", "train.learning_rate=1e-3", *QUIET)  # 64 = 24 + 24 + 16
    whole = in_double(prepared(*options))
    split = in_double(prepared(*options, "train.micro_batch=6"))  # 16 = 6 + 6 + 4
    first, second = train(*whole.parts), train(*split.parts)
    assert first.history[0]["loss"] == pytest.approx(second.history[0]["loss"], abs=1e-6)
    assert_same(weights(whole.model), weights(split.model), atol=1e-10)


def test_a_seed_gives_the_same_bits_whatever_ran_before(prepared):
    first = prepared("seed=3")
    train(*first.parts)
    between = prepared("seed=4", "method=full")
    train(*between.parts)
    again = prepared("seed=3")
    train(*again.parts)
    assert_same(weights(first.model), weights(again.model))
    assert any(not torch.equal(a, between.model.state_dict()[n]) for n, a in first.model.state_dict().items())


def test_all_methods_of_a_seed_see_the_same_batches_head_and_dropout(prepared):
    seen = {}
    for method in ("full", "low_k", "random_k", "grad_norm_k", "head_only"):
        case = prepared(f"method={method}", "seed=7")
        head, losses = weights(case.model.head), []
        case.model.register_forward_hook(lambda *args, losses=losses: losses.append(args[-1].loss.item()))
        a_loop = _Loop(*case.parts)
        order = np.concatenate(a_loop.batches(1)).tolist()
        train(*case.parts)  # the first loss comes before any update: same rows, same head, same dropout
        seen[method] = (order, losses[0], head["out.weight"].tolist(), head["project.weight"].tolist())
    assert all(found == seen["full"] for found in seen.values())


def test_the_optimiser_holds_exactly_the_trainable_parameters(prepared):
    case = prepared("method.k=2")
    loop = _Loop(*case.parts)
    loop.phases.enter(0)
    held = {p for group in loop.phases.optimizer.param_groups for p in group["params"]}
    assert held == {p for p in case.model.parameters() if p.requires_grad}
    assert loop.phases.optimizer.defaults["fused"]


def test_an_unused_pooler_counts_as_trainable_and_is_never_updated(prepared):
    case = prepared("method=full", "model.pooler=true")
    pooler = set(case.model.backbone.pooler.parameters())
    assert pooler and all(parameter.requires_grad for parameter in pooler)
    assert pooler.isdisjoint(parameter for _, parameter in optimised(case.model))
    before = weights(case.model.backbone.pooler)
    train(*case.parts)
    assert_same(before, weights(case.model.backbone.pooler))


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2"])
@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_nothing_below_the_lowest_trained_layer_requires_a_gradient(prepared, checkpointing, model):
    switch = f"train.activation_checkpointing={checkpointing}"
    case = prepared(f"model={model}", "method=top_k", "method.k=2", switch)
    seen = {number: set() for number in range(5)}

    def note(number):
        def hook(_module, _inputs, output):
            if torch.is_grad_enabled():
                states = output[0] if isinstance(output, tuple) else output
                seen[number].add(states.requires_grad)

        return hook

    case.model.backbone.model.get_input_embeddings().register_forward_hook(note(0))
    for number, layer in enumerate(case.model.backbone.layers, start=1):
        layer.register_forward_hook(note(number))
    train(*case.parts)
    assert seen == {0: {False}, 1: {False}, 2: {False}, 3: {True}, 4: {True}}
    assert case.model.backbone.activation_checkpointing == (checkpointing == "true")


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2"])
def test_activation_checkpointing_changes_no_weight(prepared, model):
    options = (f"model={model}", "method.k=2", "train.learning_rate=1e-3", *NO_DROPOUT[model])
    plain = in_double(prepared(*options))
    saving = in_double(prepared(*options, "train.activation_checkpointing=true"))
    train(*plain.parts)
    train(*saving.parts)
    assert saving.model.backbone.activation_checkpointing
    assert not plain.model.backbone.activation_checkpointing
    assert_same(weights(plain.model), weights(saving.model), atol=1e-10)


def test_a_loss_that_is_not_finite_ends_training(prepared):
    case = prepared("train.epochs=3")
    with torch.no_grad():
        case.model.head.out.bias.fill_(math.nan)
    outcome = train(*case.parts)
    assert not outcome.loss_finite
    assert len(outcome.history) == 1


def test_bf16_trains(prepared):
    case = prepared("train.precision=bf16")
    assert train(*case.parts).loss_finite
    assert all(parameter.dtype == torch.float32 for parameter in case.model.parameters())
