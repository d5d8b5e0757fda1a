"""Frozen weights held in bf16: what is computed stays the same to the bit, and fewer casts are made."""

from __future__ import annotations

import pytest
import torch
from tiny_models import DECODERS, ENCODERS, batch_of, tiny_task_model
from tiny_runs import assert_same, options_of, timeless, weights
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from layertune.fast import stepper
from layertune.fast.frozen import copies_bytes, hold_frozen, release_frozen
from layertune.fast.last_layer import OneToken, why_not_one_token
from layertune.training import train

KINDS = [kind for kind in (*ENCODERS, *DECODERS) if kind != "deberta"]  # which knows no bf16


class Casts(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


def frozen_but(model, layer):
    """Freeze all but the head and one layer; return the linear maps that are frozen."""
    model.backbone.requires_grad_(False)
    model.backbone.layers[layer].requires_grad_(True)
    maps = (module for module in model.modules() if type(module) in (nn.Linear, Conv1D))
    return [module for module in maps if not module.weight.requires_grad]


def step(model, batch):
    """Return the loss, the gradients and the number of casts of a step with dropout."""
    torch.manual_seed(3)
    model.train().zero_grad(set_to_none=True)
    with Casts() as casts:
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(batch).loss
        loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.requires_grad], casts.count


@pytest.mark.parametrize("layer", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_same_to_the_bit_and_casts_each_frozen_weight_no_more(kind, layer):
    model = tiny_task_model(kind)
    one_token = layer == 1 and why_not_one_token(model.backbone) is None
    model.backbone.last_block = OneToken if one_token else None
    maps, batch = frozen_but(model, layer), batch_of([8, 6, 3])
    loss, gradients, casts = step(model, batch)
    hold_frozen(model)
    held_loss, held_gradients, held_casts = step(model, batch)
    assert torch.equal(loss, held_loss)
    for ours, theirs in zip(held_gradients, gradients, strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)
    if not one_token:  # which reads some weights by itself
        assert casts - held_casts == sum(p is not None for m in maps for p in (m.weight, m.bias))
    release_frozen(model)
    assert step(model, batch)[2] == casts
    assert not any("forward" in vars(module) for module in model.modules())


def test_only_linear_maps_frozen_in_full_are_held_and_no_tensor_of_the_model_changes():
    model = tiny_task_model("bert")
    maps = frozen_but(model, 1)
    (partly := maps.pop()).bias.requires_grad_(True)
    before = weights(model)
    assert copies_bytes(model) == sum(2 * p.numel() for m in maps for p in m.parameters())
    hold_frozen(model)
    assert {m for m in model.modules() if "forward" in vars(m)} == set(maps) and partly not in maps
    assert_same(before, weights(model))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_held_map_may_be_called_by_the_name_of_its_argument():
    linear = torch.nn.Linear(4, 4).requires_grad_(False)
    given = torch.ones(1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        cast = linear(given)
        hold_frozen(linear)
        assert torch.equal(linear(input=given), cast)


def test_without_autocast_a_held_model_computes_in_full_precision():
    model, batch = tiny_task_model("gpt2"), batch_of([8, 5])
    frozen_but(model, 3)
    before = model(batch).logits
    hold_frozen(model)
    assert torch.equal(before, model(batch).logits)


@pytest.mark.parametrize(
    ("method", "model", "mode"),
    [
        ("low_k", "tiny_bert", "published"),
        ("low_k", "tiny_gpt2", "fast"),
        ("bottom_k", "tiny_bert", "fast"),  # the last layer is frozen, and runs for one token
        ("lora", "tiny_bert", "published"),
        ("lora", "tiny_gpt2", "fast"),  # on a map that holds three
        ("adapters", "tiny_gpt2", "published"),
        ("ia3", "tiny_bert", "fast"),
    ],
)
def test_a_run_that_holds_its_frozen_weights_ends_as_one_that_casts_them(
    prepared, monkeypatch, method, model, mode
):
    """On a CPU, where none is held else: losses, metrics and weights, with dropout, evaluation between."""
    ends = []
    for held in (False, True):
        monkeypatch.setattr(stepper, "holds_frozen", lambda *_, held=held: held)
        case = prepared(*options_of(method, model), f"train={mode}", "train.precision=bf16", "train.epochs=2")
        outcome = train(*case.parts)
        assert not any("forward" in vars(module) for module in case.model.modules())
        ends.append((timeless(outcome.history), weights(case.model)))
    assert ends[0][0] == ends[1][0]
    assert_same(ends[0][1], ends[1][1])
