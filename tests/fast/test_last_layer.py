"""Cached prefix and one-token last layer against the plain padded model: the same numbers, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_models import batch_of, tiny_backbone, tiny_task_model

from layertune.fast.cache import run_below, why_no_cache
from layertune.fast.last_layer import OneToken, why_not_one_token
from layertune.models.architectures import ARCHITECTURES as KNOWN
from layertune.tasks import Batch
from layertune.tasks.encode import LowerLayers

ARCHITECTURES = sorted(name for name, architecture in KNOWN.items() if architecture.plain)
LENGTHS = [9, 5, 16, 3]


def with_prefix(model, batch: Batch, layer: int) -> Batch:
    """The batch as it would come from a cache; padding holds whatever, as a cache keeps real tokens only."""
    states, vectors = run_below(model.backbone, batch, layer)
    if states is not None:
        states = torch.where(batch.attention_mask[:, :, None].bool(), states, states[:, :1] * 3 + 1)
    return replace(batch, lower=LowerLayers(layer, states, vectors))


def trained_above(model, layer: int) -> dict[str, torch.nn.Parameter]:
    """Train the layers from `layer` on, and the head."""
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    for block in model.backbone.layers[layer - 1 :]:
        block.requires_grad_(True)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def result(model, batch: Batch, parameters) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    output = model(batch)
    found = torch.autograd.grad(output.loss, list(parameters.values()), allow_unused=True)
    zero = torch.zeros((), dtype=torch.float64)
    return output.logits, {n: zero if g is None else g for n, g in zip(parameters, found, strict=True)}


def assert_equal(first, second) -> None:
    torch.testing.assert_close(first[0], second[0], rtol=0, atol=1e-12)
    for name, gradient in first[1].items():
        torch.testing.assert_close(
            gradient,
            second[1][name].expand_as(gradient),
            rtol=0,
            atol=1e-12,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("layer", [2, 3, 4, 5])
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_given_prefix_and_one_token_last_layer_change_neither_logits_nor_gradients(model_type, layer):
    model, batch = tiny_task_model(model_type).double(), batch_of(LENGTHS, width=24)
    parameters = trained_above(model, layer)
    plain = result(model, batch, parameters)
    given = with_prefix(model, batch, layer)
    assert_equal(plain, result(model, given, parameters))
    model.backbone.last_block = OneToken
    assert why_not_one_token(model.backbone) is None
    assert_equal(plain, result(model, given, parameters))
    assert_equal(plain, result(model, batch, parameters))


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma2"])
def test_a_decoder_read_before_its_final_norm_gives_the_same(model_type):
    model, batch = tiny_task_model(model_type, last_layer="raw").double(), batch_of(LENGTHS)
    parameters = trained_above(model, 3)
    plain = result(model, batch, parameters)
    model.backbone.last_block = OneToken
    assert_equal(plain, result(model, with_prefix(model, batch, 3), parameters))


def test_a_sliding_window_shorter_than_the_text_is_kept():
    changes = {"sliding_window": 4, "layer_types": ["full_attention"] * 3 + ["sliding_attention"]}
    model, batch = tiny_task_model("gemma2").double(), batch_of(LENGTHS)
    narrow = tiny_backbone("gemma2")
    for name, value in changes.items():
        setattr(narrow.model.config, name, value)
    last = narrow.layers[-1].self_attn
    last.layer_type, last.sliding_window = "sliding_attention", 4
    narrow.double()
    with torch.no_grad():
        wide, plain = model.backbone(batch), narrow(batch)
        assert (wide[:, -1] - plain[:, -1]).abs().max() > 1e-6  # the window matters
        narrow.last_block = OneToken
        torch.testing.assert_close(narrow(batch), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma2"])
def test_generation_starts_from_given_states(model_type):
    model, batch = tiny_task_model(model_type).double(), batch_of(LENGTHS)
    with torch.no_grad():
        plain = model.backbone.run(batch)
        states, vectors = run_below(model.backbone, batch, 3, representatives=False)
        assert vectors is None
        found = model.backbone.run(replace(batch, lower=LowerLayers(3, states, None)))
    real = batch.attention_mask.bool()
    torch.testing.assert_close(found[real], plain[real], rtol=0, atol=1e-12)


@pytest.mark.parametrize("model_type", ["bert", "mpnet", "gemma2"])
def test_a_prefix_is_made_from_a_shorter_one(model_type):
    model, batch = tiny_task_model(model_type).double(), batch_of(LENGTHS)
    real = batch.attention_mask.bool()
    for layer in (3, 4, 5):
        direct = run_below(model.backbone, batch, layer)
        onward = run_below(model.backbone, with_prefix(model, batch, 2), layer)
        torch.testing.assert_close(onward[1], direct[1], rtol=0, atol=1e-12)
        assert (direct[0] is None) == (onward[0] is None) == (layer == 5)
        if layer < 5:
            torch.testing.assert_close(onward[0][real], direct[0][real], rtol=0, atol=1e-12)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_layers_below_do_not_run_and_the_blocks_are_back_afterwards(model_type):
    model, batch = tiny_task_model(model_type), batch_of(LENGTHS)
    given, ran = with_prefix(model, batch, 3), []
    blocks = list(model.backbone.layers)
    for number, block in enumerate(blocks, start=1):
        block.register_forward_hook(lambda *_, n=number: ran.append(n))
    model(given)
    assert ran == [3, 4]
    assert list(model.backbone.layers) == blocks
    names = [name for name, _ in model.named_parameters()]
    blocks[-1].register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("on purpose")))
    with pytest.raises(RuntimeError, match="on purpose"):
        model(given)
    assert list(model.backbone.layers) == blocks and [n for n, _ in model.named_parameters()] == names


def test_no_activation_below_the_first_layer_requires_a_gradient():
    model, batch = tiny_task_model("bert"), batch_of(LENGTHS)
    trained_above(model, 3)
    seen = {}
    for number, block in enumerate(model.backbone.layers, start=1):
        block.register_forward_pre_hook(lambda _, args, n=number: seen.update({n: args[0].requires_grad}))
    model(with_prefix(model, batch, 3))
    assert seen == {1: False, 2: False, 3: False, 4: True}


def test_one_token_costs_a_fraction_of_the_layer():
    """A BERT layer has 12 H² multiplications per token; for one of T tokens they shrink to about 1 / T."""
    from torch.utils.flop_counter import FlopCounterMode

    model, batch = tiny_task_model("bert"), batch_of([32, 32], width=32)
    flops = {}
    with torch.no_grad():
        given = with_prefix(model, batch, 4)
        for one_token in (False, True):
            model.backbone.last_block = OneToken if one_token else None
            with FlopCounterMode(display=False) as counter:
                model.backbone(given)
            flops[one_token] = counter.get_total_flops()
    assert flops[True] < flops[False] / 8


@pytest.mark.parametrize("model_type", ["deberta", "deberta-v2"])
def test_deberta_says_why_it_falls_back(model_type):
    model = tiny_task_model(model_type)
    assert model_type in why_no_cache(model, 3, num_phases=1, own=True)
    assert model_type in why_not_one_token(model.backbone)


def test_a_hook_on_the_last_attention_forbids_the_short_cut():
    backbone = tiny_backbone("bert")
    assert why_not_one_token(backbone) is None
    handle = backbone.layers[-1].attention.self.register_forward_pre_hook(lambda *_: None)
    assert "hooked" in why_not_one_token(backbone)
    handle.remove()
    assert why_not_one_token(backbone) is None


def test_hooks_inside_the_last_layer_still_act():
    model, batch = tiny_task_model("bert").double(), batch_of(LENGTHS)
    inner = model.backbone.layers[-1].attention.self.value
    inner.register_forward_hook(lambda _, __, output: output * 2)
    with torch.no_grad():
        plain = model(batch).logits
        model.backbone.last_block = OneToken
        torch.testing.assert_close(model(batch).logits, plain, rtol=0, atol=1e-12)
