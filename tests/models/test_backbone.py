from __future__ import annotations

import dataclasses
import gc
import weakref
from functools import partial

import pytest
import torch
from tiny_models import DECODERS, ENCODERS, batch_of, tiny_backbone, tiny_model
from torch.utils.checkpoint import checkpoint

from layertune.errors import ModelError
from layertune.models import Backbone
from layertune.models.architectures import ARCHITECTURES, find_layers
from layertune.models.backbone import full_mask

LENGTHS = [9, 5, 16, 3]


def hidden_states(backbone: Backbone, batch) -> tuple[torch.Tensor, ...]:
    return backbone.model(**backbone.inputs(batch), output_hidden_states=True).hidden_states


@pytest.mark.parametrize("model_type", ENCODERS)
def test_encoder_vectors_are_the_first_token_of_every_hidden_state(model_type):
    backbone, batch = tiny_backbone(model_type), batch_of(LENGTHS)
    with torch.no_grad():
        expected = torch.stack([state[:, 0] for state in hidden_states(backbone, batch)[1:]], 1)
        torch.testing.assert_close(backbone(batch), expected, rtol=0, atol=0)


@pytest.mark.parametrize("model_type", DECODERS)
def test_decoder_vectors_are_the_last_real_token_and_layer_l_comes_after_the_final_norm(model_type):
    backbone, batch = tiny_backbone(model_type), batch_of(LENGTHS)
    with torch.no_grad():
        states = hidden_states(backbone, batch)[1:]
        expected = torch.stack(
            [torch.stack([state[row, length - 1] for row, length in enumerate(LENGTHS)]) for state in states],
            1,
        )
        torch.testing.assert_close(backbone(batch), expected, rtol=0, atol=0)


@pytest.mark.parametrize("model_type", DECODERS)
def test_raw_mode_replaces_only_the_last_layer_by_the_state_before_the_final_norm(model_type):
    library, raw = tiny_backbone(model_type), tiny_backbone(model_type, last_layer="raw")
    batch = batch_of(LENGTHS)
    with torch.no_grad():
        a, b = library(batch), raw(batch)
        torch.testing.assert_close(a[:, :-1], b[:, :-1], rtol=0, atol=0)
        assert not torch.allclose(a[:, -1], b[:, -1], atol=1e-2)
        torch.testing.assert_close(raw.final_norm(b[:, -1]), a[:, -1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model_type", ENCODERS)
def test_raw_and_library_are_the_same_for_encoders(model_type):
    batch = batch_of(LENGTHS)
    with torch.no_grad():
        a, b = tiny_backbone(model_type)(batch), tiny_backbone(model_type, last_layer="raw")(batch)
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("model_type", ENCODERS + DECODERS)
def test_padding_does_not_change_a_vector(model_type):
    backbone = tiny_backbone(model_type)
    with torch.no_grad():
        padded = backbone(batch_of([7, 12], seed=3, width=24))
        alone = backbone(batch_of([7], seed=3))
    torch.testing.assert_close(padded[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", ENCODERS + DECODERS)
def test_run_reports_the_states_around_every_layer_in_order(model_type):
    backbone, batch = tiny_backbone(model_type), batch_of(LENGTHS)
    seen = []
    with torch.no_grad():
        states = hidden_states(backbone, batch)
        last = backbone.run(batch, lambda *what: seen.append(what))
    assert [number for number, _, _ in seen] == [1, 2, 3, 4]
    for number, before, after in seen:
        torch.testing.assert_close(before, states[number - 1], rtol=0, atol=0)
        torch.testing.assert_close(after, states[number], rtol=0, atol=0)
    torch.testing.assert_close(last, states[-1], rtol=0, atol=0)


@pytest.mark.parametrize("model_type", ENCODERS + DECODERS)
def test_the_table_of_block_lists_agrees_with_the_search_by_structure(model_type, monkeypatch):
    model = tiny_model(model_type)
    path = find_layers(model)
    monkeypatch.delitem(ARCHITECTURES, model_type)
    assert find_layers(model) == path == find_layers(model, path)


def test_an_ambiguous_block_list_is_an_error_that_names_the_candidates(monkeypatch):
    model = tiny_model("bert")
    model.extra = torch.nn.ModuleList([torch.nn.Identity() for _ in range(4)])
    monkeypatch.delitem(ARCHITECTURES, "bert")
    with pytest.raises(ModelError, match=r"encoder\.layer, extra"):
        find_layers(model)
    assert find_layers(model, "extra") == "extra"


def test_a_wrong_block_path_is_an_error_that_names_the_right_one():
    with pytest.raises(ModelError, match=r"model\.layers=h; such a list is at encoder\.layer"):
        find_layers(tiny_model("bert"), "h")


@pytest.mark.parametrize("model_type", ["bert", "deberta", "gpt2"])
def test_hooks_are_gone_after_a_pass_and_after_an_exception(model_type):
    backbone, batch = tiny_backbone(model_type), batch_of(LENGTHS)
    backbone(batch)
    with pytest.raises(RuntimeError, match="on purpose"):
        backbone.run(batch, lambda number, *_: (_ for _ in ()).throw(RuntimeError("on purpose")))
    assert all(not layer._forward_hooks for layer in backbone.layers)
    torch.testing.assert_close(backbone(batch), backbone(batch), rtol=0, atol=0)


def test_nothing_is_referenced_after_a_pass():
    backbone, batch = tiny_backbone("bert"), batch_of(LENGTHS)
    seen = []
    with torch.no_grad():
        backbone.run(batch, lambda _, before, after: seen.extend([weakref.ref(before), weakref.ref(after)]))
    gc.collect()
    assert [ref() for ref in seen] == [None] * 8


def test_a_pass_keeps_one_token_per_layer_and_not_the_whole_sequence():
    """The states of the lower layers are freed while the upper ones still run."""
    backbone, batch = tiny_backbone("bert"), batch_of(LENGTHS)
    alive = []

    def watch(_, before, after, refs=[]):  # noqa: B006
        refs.append(weakref.ref(after))
        del before, after
        alive.append(sum(ref() is not None for ref in refs))

    with torch.no_grad():
        backbone.run(batch, watch)
    assert max(alive) <= 3  # entering, leaving, and one held by the model itself


@pytest.mark.parametrize("model_type", ENCODERS + DECODERS)
def test_vectors_carry_gradients_only_to_the_layers_that_are_trained(model_type):
    backbone, batch = tiny_backbone(model_type), batch_of(LENGTHS)
    backbone.requires_grad_(False)
    backbone.layers[2].requires_grad_(True)
    vectors = backbone(batch)
    assert vectors.requires_grad
    vectors[:, :2].sum()
    assert not torch.autograd.grad(vectors[:, :2].sum(), vectors, retain_graph=True)[0][:, 2:].any()
    vectors.square().sum().backward()
    trained = [name for name, parameter in backbone.named_parameters() if parameter.grad is not None]
    assert trained and all(".2." in name for name in trained)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_activation_checkpointing_gives_the_same_vectors_and_gradients(model_type):
    plain, checkpointed = tiny_backbone(model_type), tiny_backbone(model_type)
    for module in [*plain.modules(), *checkpointed.modules()]:
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    checkpointed.model.gradient_checkpointing_enable()
    batch = batch_of(LENGTHS)
    for backbone in (plain, checkpointed):
        if model_type != "bert":  # attention dropout lives in the configuration of the others too
            backbone.model.config.attn_pdrop = 0.0
        backbone.train()
        backbone(batch).square().sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), checkpointed.named_parameters(), strict=True):
        if a.grad is None:
            assert b.grad is None, name
        else:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_hooks_that_run_inside_a_recomputed_block_change_nothing_it_saves(monkeypatch):
    """Older releases of transformers checkpoint `__call__`, hooks included, newer ones `forward`."""
    plain, backbone, batch = tiny_backbone("gpt2"), tiny_backbone("gpt2"), batch_of(LENGTHS)
    block = type(backbone.layers[0])

    class CheckpointedCall(block):
        def __call__(self, *args, **kwargs):
            return checkpoint(partial(super().__call__, **kwargs), *args, use_reentrant=False)

    for layer in backbone.layers:
        layer.__class__ = CheckpointedCall
    monkeypatch.setattr(type(backbone), "activation_checkpointing", True)
    for each in (plain, backbone):
        each.train()
        for module in each.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        each.model.config.attn_pdrop = 0.0
        each(batch).square().sum().backward()
    for (name, a), (_, b) in zip(plain.named_parameters(), backbone.named_parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_segment_ids_reach_only_models_that_have_more_than_one_segment():
    batch = batch_of(LENGTHS)
    segments = torch.zeros_like(batch.input_ids)
    segments[:, 2:] = 1
    batch = type(batch)(batch.input_ids, batch.attention_mask, batch.labels, segments, batch.indices)
    assert {m for m in ENCODERS + DECODERS if "token_type_ids" in tiny_backbone(m).inputs(batch)} == {
        "bert",
        "roberta",  # this tiny one has two segments
        "electra",
    }
    assert "token_type_ids" not in Backbone(tiny_model("roberta", type_vocab_size=1), "first").inputs(batch)
    with torch.no_grad():
        bert = tiny_backbone("bert")
        assert not torch.allclose(bert(batch), bert(batch_of(LENGTHS)))


def test_half_precision_states_come_back_as_fp32_and_doubles_stay_doubles():
    batch = batch_of(LENGTHS)
    with torch.no_grad():
        assert tiny_backbone("bert").to(torch.bfloat16)(batch).dtype is torch.float32
        assert tiny_backbone("bert").double()(batch).dtype is torch.float64


def test_segment_ids_reach_a_model_whose_configuration_does_not_count_them():
    from transformers import XLNetConfig, XLNetModel

    torch.manual_seed(0)
    config = XLNetConfig(vocab_size=99, d_model=32, n_layer=3, n_head=4, d_inner=64)
    backbone, batch = Backbone(XLNetModel(config).eval(), "last"), batch_of([6, 6])
    segments = torch.tensor([[0, 0, 0, 1, 1, 2]] * 2)
    with torch.no_grad():
        given = backbone(dataclasses.replace(batch, segment_ids=segments))
        states = backbone.model(batch.input_ids, attention_mask=batch.attention_mask, token_type_ids=segments)
        assert torch.equal(given[:, -1], states.last_hidden_state[:, -1])
        assert not torch.allclose(given, backbone(batch))


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "gpt2", "llama"])
def test_the_mask_that_is_given_to_the_model_is_the_one_that_it_makes_itself(model_type):
    backbone, batch = tiny_backbone(model_type), batch_of(LENGTHS)
    inputs = backbone.inputs(batch)
    with torch.no_grad():
        expected = backbone.model(**inputs).last_hidden_state
        given = full_mask(batch.attention_mask, backbone.sees)
        found = backbone.model(**{**inputs, "attention_mask": given}).last_hidden_state
    assert torch.equal(found, expected)


@pytest.mark.parametrize("model_type", ["deberta", "mpnet", "gemma2"])
def test_no_mask_is_given_where_a_model_attends_in_a_way_of_its_own(model_type):
    assert tiny_backbone(model_type).sees is None
