"""One optimiser step: accumulation, what a hook may do, and which modes the modules are in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny_runs import NO_DROPOUT, Prepared, assert_same, prepare_with, weights

from layertune.methods import Full, HeadOnly
from layertune.models import TaskModel
from layertune.runtime import prepare_runtime
from layertune.tasks import Batch
from layertune.training import loop, train

QUIET = NO_DROPOUT["tiny_bert"]


def as_regression(case: Prepared) -> Prepared:
    """Give the rows scores instead of classes."""

    def scored(split):
        labels = (split.store.lengths % 6).astype(np.float32)
        return dataclasses.replace(split, store=dataclasses.replace(split.store, labels=labels))

    task = dataclasses.replace(
        case.run.task, kind="regression", labels=(), metric="pearson", metrics=("pearson",)
    )
    run = dataclasses.replace(case.run, task=task)
    data = dataclasses.replace(
        case.data,
        train=scored(case.data.train),
        evals={name: scored(split) for name, split in case.data.evals.items()},
        num_outputs=1,
        kind="regression",
    )
    return prepare_with(run, prepare_runtime(run), data)


def gradients_of(case: Prepared, rows: np.ndarray) -> tuple[dict[str, torch.Tensor], float]:
    """Take one step and return the gradients it stepped on, and its loss."""
    seen = {}

    class Noting(type(case.method)):
        def after_backward(self, model, step):
            seen.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

    a_loop = loop._Loop(case.run, case.model, case.data, Noting(case.run), case.runtime, case.track)
    case.model.train()
    return seen, float(a_loop._step(rows))


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("rows", [24, 13])  # 13 = 6 + 6 + 1: a lone row must not count six-fold
def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(prepared, kind, rows):
    options = ("train.batch_size=24", "method=full", *QUIET)
    cases = [prepared(*options), prepared(*options, "train.micro_batch=6")]
    if kind == "regression":
        cases = [as_regression(case) for case in cases]
    (whole, loss), (split, other) = (gradients_of(case, np.arange(rows)) for case in cases)
    assert other == pytest.approx(loss, rel=1e-6)
    assert whole.keys() == split.keys()
    assert max(float(gradient.abs().max()) for gradient in whole.values()) > 0.01
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def as_generation(case: Prepared) -> Prepared:
    """Make the tokens of each row its targets: all of them in the first 12 rows, one in the others."""
    plain = case.data.train.store

    class Targets:
        lengths = plain.lengths

        @staticmethod
        def batch(rows: np.ndarray, multiple: int = 1) -> Batch:
            batch = plain.batch(rows, multiple)
            labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
            for row, number in enumerate(rows):
                if number >= 12:
                    labels[row, 2:] = -100
            return dataclasses.replace(batch, labels=labels)

    backbone = case.model.backbone
    head = torch.nn.Linear(backbone.hidden_size, backbone.model.config.vocab_size, bias=False)
    head.weight = backbone.model.get_input_embeddings().weight
    model = TaskModel(backbone, head, "generation", label_smoothing=0.1).double()
    data = dataclasses.replace(
        case.data, train=dataclasses.replace(case.data.train, store=Targets()), kind="generation"
    )
    return dataclasses.replace(case, model=model, data=data)


def test_micro_batches_of_a_language_model_are_weighed_by_their_target_tokens(prepared):
    options = ("model=tiny_gpt2", "method=full", "train.batch_size=24", *NO_DROPOUT["tiny_gpt2"])
    rows = np.arange(24)
    (whole, loss), (split, other) = (
        gradients_of(as_generation(prepared(*options, *more)), rows)
        for more in ((), ("train.micro_batch=6",))
    )
    assert other == pytest.approx(loss, rel=1e-6)
    assert whole.keys() == split.keys() and "head.weight" not in whole  # tied: one tensor
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=0, atol=1e-9, msg=name)


def test_a_regression_trains_and_reports_correlations(prepared):
    case = as_regression(prepared("train.epochs=2", "train.learning_rate=1e-2"))
    outcome = train(*case.parts)
    assert set(outcome.last["demo"]) == {"pearson"}
    assert outcome.history[1]["loss"] < outcome.history[0]["loss"]


class Diary(Full):
    """A method that writes down which hook was called with which number."""

    def __init__(self, run):
        super().__init__(run)
        self.calls = []

    def on_epoch_start(self, model, epoch):
        self.calls.append(("epoch", epoch))

    def before_step(self, model, step):
        self.gradients_before = sum(p.grad is not None for p in model.parameters())
        self.calls.append(("before", step))

    def after_backward(self, model, step):
        assert any(p.grad is not None and p.grad.any() for p in model.parameters())
        self.weight = model.head.out.weight.detach().clone()
        self.calls.append(("backward", step))

    def after_step(self, model, step):
        assert not torch.equal(self.weight, model.head.out.weight)  # updated between the two hooks
        self.calls.append(("after", step))


def test_the_hooks_are_called_in_order_around_every_step(prepared):
    case = prepared("method=full", "train.epochs=2", "train.batch_size=32", "train.micro_batch=16")
    diary = Diary(case.run)
    train(case.run, case.model, case.data, diary, case.runtime, case.track)
    steps = {n: [("before", n), ("backward", n), ("after", n)] for n in (1, 2, 3, 4)}
    assert diary.calls == [("epoch", 1), *steps[1], *steps[2], ("epoch", 2), *steps[3], *steps[4]]
    assert diary.gradients_before == 0  # nothing is carried over from the step before


def test_what_after_backward_writes_is_what_the_optimiser_uses(prepared):
    class NoGradient(Full):
        def after_backward(self, model, step):
            for parameter in model.backbone.parameters():
                parameter.grad = None

    case = prepared("method=full")
    before = weights(case.model.backbone)
    train(case.run, case.model, case.data, NoGradient(case.run), case.runtime, case.track)
    assert_same(before, weights(case.model.backbone))


def test_dropout_is_on_in_frozen_layers_and_off_in_evaluation(prepared, monkeypatch):
    # Paper: the released code trains with the whole model in training mode.
    case = prepared("method=head_only", "train.epochs=2")
    modes = {"step": set(), "score": set()}
    real = loop.score_epoch

    class Watching(HeadOnly):
        def before_step(self, model, step):
            modes["step"] |= {module.training for module in model.modules()}

    def score(run, model, *rest):
        model.backbone.register_forward_hook(
            lambda *_: (
                modes["score"].update(module.training for module in model.modules())
                if not torch.is_grad_enabled()
                else None
            )
        )
        return real(run, model, *rest)

    monkeypatch.setattr(loop, "score_epoch", score)
    train(case.run, case.model, case.data, Watching(case.run), case.runtime, case.track)
    assert modes == {"step": {True}, "score": {False}}


def test_a_method_may_keep_modules_in_evaluation_mode_for_an_epoch(prepared):
    modes = []

    class QuietBelow(HeadOnly):
        def on_epoch_start(self, model, epoch):
            model.backbone.eval()

        def before_step(self, model, step):
            modes.append((model.backbone.layers[0].training, model.head.training))

    case = prepared("method=head_only", "train.epochs=2")
    train(case.run, case.model, case.data, QuietBelow(case.run), case.runtime, case.track)
    assert modes == [(False, True)] * 8


def test_frozen_parameters_get_no_gradient_and_no_optimiser_state(prepared):
    case = prepared("method=top_k", "method.k=1")
    gradients, _ = gradients_of(case, np.arange(16))
    trainable = {name for name, p in case.model.named_parameters() if p.requires_grad}
    assert set(gradients) == trainable
    assert {name.split(".")[0] for name in trainable} == {"backbone", "head"}


def test_what_a_method_draws_while_it_prepares_changes_no_dropout(prepared):
    cases = [prepared("method=full", "seed=5") for _ in range(2)]
    torch.rand(1000)  # as a scorer with dropout, or new parameters, would
    np.random.rand(7)
    disturbed = train(*cases[0].parts)
    undisturbed = train(*cases[1].parts)
    assert disturbed.history[0]["loss"] == undisturbed.history[0]["loss"]
    assert_same(weights(cases[0].model), weights(cases[1].model))


@pytest.mark.parametrize("seeds", [(0, 1), (0, 42)])
def test_different_seeds_give_different_batches_heads_and_weights(prepared, seeds):
    cases = [prepared("method=full", f"seed={seed}") for seed in seeds]
    heads = [weights(case.model.head) for case in cases]
    assert not torch.equal(heads[0]["out.weight"], heads[1]["out.weight"])
    assert_same(weights(cases[0].model.backbone), weights(cases[1].model.backbone))  # pretrained
    orders = [np.concatenate(loop._Loop(*case.parts).batches(1)) for case in cases]
    assert not np.array_equal(*orders)
    losses = [train(*case.parts).history[0]["loss"] for case in cases]
    assert losses[0] != losses[1]


def test_epochs_have_different_orders_of_the_same_rows(prepared):
    a_loop = loop._Loop(*prepared("train.epochs=2").parts)
    first, second = (np.concatenate(a_loop.batches(epoch)) for epoch in (1, 2))
    assert not np.array_equal(first, second)
    assert sorted(first) == sorted(second) == list(range(64))
