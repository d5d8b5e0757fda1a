"""The one loop, held against a loop written out here."""

from __future__ import annotations

import math
import signal

import numpy as np
import pytest
import torch

from layertune.config.compose import group_names
from layertune.methods import optimised
from layertune.tasks import epoch_batches
from layertune.training import Interruption, train
from layertune.training.loop import _Loop

NO_DROPOUT = (
    "++model.random_config.hidden_dropout_prob=0.0",
    "++model.random_config.attention_probs_dropout_prob=0.0",
    "model.head_dropout=0.0",
)


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_same(first, second, **tolerance):
    for name, value in first.items():
        if tolerance:
            assert torch.allclose(value, second[name], **tolerance), name
        else:
            assert torch.equal(value, second[name]), name


def plain_loop(case):
    """Algorithm 1's last line in plain torch: unfused AdamW, linear decay to zero, no warm-up."""
    run, model, data = case.run, case.model, case.data
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, betas=(0.9, 0.99), weight_decay=0.01, eps=1e-8)
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
                group["lr"] = 2e-5 * (1 - step / total)
            optimizer.zero_grad()
            loss = model(data.train.store.batch(indices)).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
        means.append(sum(losses) / len(losses))
    return means


@pytest.mark.parametrize("method", ["full", "low_k", "head_only"])
def test_the_loop_equals_a_plain_torch_loop(prepared, method):
    options = (f"method={method}", "train.epochs=2", "train.learning_rate=2e-5", *NO_DROPOUT)
    ours, plain = prepared(*options), prepared(*options)
    outcome = train(*ours.parts)
    means = plain_loop(plain)
    assert [entry["loss"] for entry in outcome.history] == pytest.approx(means, abs=1e-6)
    assert_same(weights(ours.model), weights(plain.model), atol=1e-6)
    assert outcome.steps == 8  # 64 rows in batches of 16, twice


def test_micro_batches_give_the_weights_of_the_whole_batch(prepared):
    options = ("train.batch_size=24", "train.learning_rate=1e-3", *NO_DROPOUT)  # 64 = 24 + 24 + 16
    whole, split = prepared(*options), prepared(*options, "train.micro_batch=6")
    first, second = train(*whole.parts), train(*split.parts)
    assert first.history[0]["loss"] == pytest.approx(second.history[0]["loss"], abs=1e-6)
    assert_same(weights(whole.model), weights(split.model), atol=2e-5)


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
    cases = [prepared(f"method={name}", "seed=7") for name in ("full", "random_k")]
    loops = [_Loop(*case.parts) for case in cases]
    for left, right in zip(loops[0].batches(2), loops[1].batches(2), strict=True):
        assert np.array_equal(left, right)
    assert_same(dict(cases[0].model.head.named_parameters()), dict(cases[1].model.head.named_parameters()))
    losses = []
    for case in cases:  # the first loss comes before any update: same head, same batch, same dropout
        case.track.entries.clear()
        outcome = train(case.run, case.model, case.data, _FirstLoss(case), case.runtime, case.track)
        losses.append(outcome)
    assert cases[0].first_loss == cases[1].first_loss


class _FirstLoss:
    """A method that notes the first loss and changes nothing."""

    def __init__(self, case):
        self.case, self.inner = case, case.method

        def note(module, args, output):
            if not hasattr(case, "first_loss"):
                case.first_loss = output.loss.item()

        case.model.register_forward_hook(note)

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_the_optimiser_holds_exactly_the_trainable_parameters(prepared):
    case = prepared("method.k=2")
    loop = _Loop(*case.parts)
    held = {p for group in loop.optimizer.param_groups for p in group["params"]}
    assert held == {p for p in case.model.parameters() if p.requires_grad}
    assert loop.optimizer.defaults["fused"]


def test_an_unused_pooler_counts_as_trainable_and_is_never_updated(prepared):
    case = prepared("method=full", "model.pooler=true")
    pooler = set(case.model.backbone.pooler.parameters())
    assert pooler and all(parameter.requires_grad for parameter in pooler)
    assert pooler.isdisjoint(parameter for _, parameter in optimised(case.model))
    before = weights(case.model.backbone.pooler)
    train(*case.parts)
    assert_same(before, weights(case.model.backbone.pooler))


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_nothing_below_the_lowest_trained_layer_requires_a_gradient(prepared, checkpointing):
    case = prepared("method=top_k", "method.k=2", f"train.activation_checkpointing={checkpointing}")
    seen = {}
    for number, layer in enumerate(case.model.backbone.layers, start=1):
        layer.register_forward_hook(
            lambda _m, _a, out, number=number: seen.__setitem__(
                number, (out[0] if isinstance(out, tuple) else out).requires_grad
            )
        )
    loop = _Loop(*case.parts)
    case.model.train()
    loop._step(loop.batches(1)[0])
    assert seen == {1: False, 2: False, 3: True, 4: True}


def test_activation_checkpointing_changes_no_weight(prepared):
    options = ("method=low_k", "method.k=2", *NO_DROPOUT)
    plain, saving = prepared(*options), prepared(*options, "train.activation_checkpointing=true")
    train(*plain.parts)
    train(*saving.parts)
    assert_same(weights(plain.model), weights(saving.model), atol=1e-7)


def test_the_timing_protocol_times_only_the_steps_after_the_warm_up(prepared):
    case = prepared(
        "protocol=timing", "protocol.warmup_steps=2", "protocol.max_steps=5", "train.batch_size=16"
    )
    outcome = train(*case.parts)
    assert outcome.steps == 7
    assert outcome.history[0]["metrics"] == {} and outcome.last == {}
    loop = _Loop(*prepared("protocol=timing", "protocol.warmup_steps=2", "protocol.max_steps=5").parts)
    loop.train()
    assert len(loop.watch.steps) == 5


def test_evaluation_is_outside_the_timed_seconds(prepared, monkeypatch):
    import time

    from layertune.training import loop as module

    real = module.score_epoch
    monkeypatch.setattr(module, "score_epoch", lambda *args: (time.sleep(1.0), real(*args))[1])
    case = prepared("train.epochs=2", "study.train_examples=64")
    loop = _Loop(*case.parts)
    outcome = loop.train()
    assert outcome.seconds == pytest.approx(sum(loop.watch.steps), abs=0.5)
    assert sum(entry["seconds"] for entry in outcome.history) == pytest.approx(outcome.seconds)


def test_a_stopped_run_goes_on_bit_for_bit(prepared, monkeypatch):
    options = ("checkpoint.every_steps=3", "train.epochs=2", "train.learning_rate=1e-3")
    whole = prepared(*options)
    expected = train(*whole.parts)

    stopped = prepared(*options)
    real = _Loop._step

    def step_then_signal(self, indices):
        loss = real(self, indices)
        if self.step == 6:  # in the middle of the second epoch
            signal.raise_signal(signal.SIGTERM)
        return loss

    monkeypatch.setattr(_Loop, "_step", step_then_signal)
    with pytest.raises(Interruption):
        train(*stopped.parts)
    monkeypatch.setattr(_Loop, "_step", real)

    resumed = prepared(*options)
    outcome = train(*resumed.parts)
    assert_same(weights(whole.model), weights(resumed.model))
    timeless = [{k: v for k, v in entry.items() if k != "seconds"} for entry in outcome.history]
    assert timeless == [{k: v for k, v in entry.items() if k != "seconds"} for entry in expected.history]
    assert not list((resumed.run.cache_dir.parent / "checkpoints").glob("*.pt"))


def test_a_loss_that_is_not_finite_ends_training(prepared):
    case = prepared("train.epochs=3")
    with torch.no_grad():
        case.model.head.out.bias.fill_(math.nan)
    outcome = train(*case.parts)
    assert not outcome.loss_finite
    assert len(outcome.history) == 1


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2"])
@pytest.mark.parametrize("method", group_names("method"))
def test_every_method_trains(prepared, method, model):
    k = [] if method in ("full", "head_only") else ["method.k=2"]
    case = prepared(f"method={method}", f"model={model}", *k, "protocol.train_examples=48")
    outcome = train(*case.parts)
    assert outcome.steps == 3 and outcome.loss_finite and outcome.received_gradient


def test_bf16_trains(prepared):
    case = prepared("train.precision=bf16")
    assert train(*case.parts).loss_finite
    assert all(parameter.dtype == torch.float32 for parameter in case.model.parameters())


def test_gradients_are_clipped_to_their_norm(prepared):
    case = prepared("train.clip_norm=1e-6", "train.learning_rate=0.1", *NO_DROPOUT)
    loop = _Loop(*case.parts)
    norms = []
    real = loop.optimizer.step
    loop.optimizer.step = lambda: (
        norms.append(math.sqrt(sum(p.grad.square().sum().item() for _, p in optimised(case.model)))),
        real(),
    )
    case.model.train()
    loop._step(loop.batches(1)[0])
    assert norms == [pytest.approx(1e-6, rel=1e-2)]
