"""Adapters: their formula inside each kind of block, their start, and what trains beside them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from added_cases import ALL, added, insert, shake
from tiny_models import batch_of, tiny_task_model

from layertune.methods import count
from layertune.methods.adapters import Adapter


def bottleneck(states: torch.Tensor, adapter: torch.nn.Module, activation=F.gelu) -> torch.Tensor:
    """x + Up(act(Down(x))), written out."""
    inner = activation(states @ adapter.down.weight.T + adapter.down.bias)
    return states + inner @ adapter.up.weight.T + adapter.up.bias


def one_block(model_type: str, **options: object):
    """A model with moved adapters, its second block, and the states that enter and leave it."""
    model = tiny_task_model(model_type)
    shake(added(model, insert("adapters", model, **options)).values())
    seen = {}
    model.backbone.run(
        batch_of([8, 8]), lambda number, before, after: seen.setdefault(number, (before, after))
    )
    return model.backbone.layers[1], *seen[2]


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra"])
def test_in_a_post_norm_block_each_adapter_stands_before_the_residual_and_the_norm(model_type):
    block, before, after = one_block(model_type, bottleneck=8)
    attention, output = block.attention.output, block.output
    with torch.no_grad():
        mixed = attention.dense(block.attention.self(before)[0])
        states = attention.LayerNorm(bottleneck(mixed, attention.dropout.adapter) + before)
        inner = output.dense(block.intermediate(states))
        expected = output.LayerNorm(bottleneck(inner, output.dropout.adapter) + states)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)


def test_in_a_pre_norm_block_each_adapter_stands_before_the_residual():
    block, before, after = one_block("gpt2", bottleneck=8, activation="relu")
    with torch.no_grad():
        query, key, value = block.attn.c_attn(block.ln_1(before)).split(32, dim=-1)
        heads = [part.unflatten(-1, (4, 8)).transpose(1, 2) for part in (query, key, value)]
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
        mixed = block.attn.c_proj(mixed)
        states = before + bottleneck(mixed, block.attn.resid_dropout.adapter, F.relu)
        inner = block.mlp.c_proj(block.mlp.act(block.mlp.c_fc(block.ln_2(states))))
        expected = states + bottleneck(inner, block.mlp.dropout.adapter, F.relu)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_in_a_gated_block_an_adapter_follows_the_output_projections(model_type):
    block, before, after = one_block(model_type, bottleneck=8)
    seen = {}
    for name in ("self_attn.o_proj", "mlp.down_proj"):  # what enters the projections, with adapters in place
        block.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: seen.setdefault(name, args[0])
        )
    sandwich = model_type == "gemma2"
    second = block.pre_feedforward_layernorm if sandwich else block.post_attention_layernorm
    with torch.no_grad():
        positions = torch.arange(8)[None]
        rotary = tiny_task_model(model_type).backbone.model.rotary_emb(before, positions)
        causal = torch.full((8, 8), torch.finfo(torch.float32).min).triu(1)[None, None]
        block(before, position_embeddings=rotary, attention_mask=causal)

        def projected(name):
            projection = block.get_submodule(name)
            return bottleneck(seen[name] @ projection.weight.T, projection.adapter)

        attention = projected("self_attn.o_proj")
        states = before + (block.post_attention_layernorm(attention) if sandwich else attention)
        gated = block.mlp.act_fn(block.mlp.gate_proj(second(states))) * block.mlp.up_proj(second(states))
        torch.testing.assert_close(seen["mlp.down_proj"], gated, rtol=1e-5, atol=1e-5)
        inner = projected("mlp.down_proj")
        expected = states + (block.post_feedforward_layernorm(inner) if sandwich else inner)
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ALL)
def test_they_start_as_the_identity_up_to_the_scale_of_their_initialisation(model_type):
    model, batch = tiny_task_model(model_type), batch_of([9, 4, 6])
    pretrained = model.representatives(batch)
    new = added(model, insert("adapters", model))
    start = model.representatives(batch)
    # Up and Down of 32 x 96 numbers near 0.01, half of it passed by GELU: about 0.003 of x each time.
    assert 0 < (start - pretrained).norm() / pretrained.norm() < 0.03
    with torch.no_grad():
        for name, parameter in new.items():
            if "up.weight" in name:
                parameter.zero_()
    torch.testing.assert_close(model.representatives(batch), pretrained, rtol=0.0, atol=0.0)


def test_weights_are_a_normal_cut_at_two_deviations_and_biases_zero():
    torch.manual_seed(0)
    adapter = Adapter(768, 96, "gelu")
    assert not adapter.down.bias.any() and not adapter.up.bias.any()
    # A standard normal cut at ±2 has variance 1 - 4 φ(2) / (2 Φ(2) - 1).
    density, inside = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
    deviation = 0.01 * math.sqrt(1 - 4 * density / inside)
    for weight in (adapter.down.weight.detach(), adapter.up.weight.detach()):
        assert weight.abs().max() <= 0.02 and weight.abs().max() > 0.0199
        assert float(weight.std()) == pytest.approx(deviation, rel=0.01)
        assert abs(float(weight.mean())) < 1e-4


@pytest.mark.parametrize("model_type", ALL)
def test_the_norms_of_the_blocks_train_too_unless_switched_off(model_type):
    norms = {"gemma2": 4 * 32, "llama": 2 * 32}.get(model_type, 2 * 64)  # RMS norms have no shift
    for train_norms in (True, False):
        model = tiny_task_model(model_type)
        prep = insert("adapters", model, train_norms=train_norms)
        beside = [
            name
            for name, p in model.named_parameters()
            if p.requires_grad and name not in prep.added and not name.startswith("head.")
        ]
        numbers = count(dict(model.named_parameters())[name] for name in beside)
        assert numbers == (4 * norms if train_norms else 0)
        assert all("norm" in name.lower() or "ln_" in name for name in beside)
        assert not any("embeddings" in name or "ln_f" in name for name in beside)
