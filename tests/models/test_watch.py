"""What is watched inside a model is checked: right states, or one sentence."""

from __future__ import annotations

import pytest
import torch
from tiny_models import any_model, batch_of, tiny_backbone, tiny_model

from layertune.errors import ModelError
from layertune.models import Backbone
from layertune.models.probe import probe

XLNET = {"d_model": 32, "n_head": 4, "d_head": 8, "n_layer": 4, "vocab_size": 60}
OPT = {"ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": False}


@pytest.mark.parametrize("rows", [3, 5])  # as many as tokens: no axis tells itself from the other by its size
def test_xlnets_blocks_hold_time_first_and_their_states_come_out_batch_first(rows):
    backbone, batch = Backbone(any_model("xlnet", **XLNET), "last"), batch_of([5] * rows)
    probe(backbone)
    with torch.no_grad():
        states = backbone.model(batch.input_ids, output_hidden_states=True).hidden_states[1:]
        expected = torch.stack([state[:, -1] for state in states], 1)
        torch.testing.assert_close(backbone(batch), expected, rtol=0, atol=0)


def test_longformer_pads_to_its_window_and_its_states_are_those_of_the_tokens():
    backbone, batch = Backbone(any_model("longformer", attention_window=8), "first"), batch_of([9, 5])
    probe(backbone)
    with torch.no_grad():
        states = backbone.model(
            batch.input_ids, batch.attention_mask, output_hidden_states=True
        ).hidden_states
        expected = torch.stack([state[:, 0] for state in states[1:]], 1)
        torch.testing.assert_close(backbone(batch), expected, rtol=0, atol=0)


def test_bigbird_keeps_its_sparse_attention_when_it_is_looked_at():
    model = any_model("big_bird", block_size=2, num_random_blocks=1)
    probe(Backbone(model, "first"))
    assert model.attention_type == "block_sparse"


def test_a_projection_behind_the_last_layer_leaves_the_layers_own_output_to_compare():
    model, batch = (
        any_model("opt", **OPT),
        batch_of([5]),
    )
    with pytest.raises(ModelError, match="last_layer=raw"), torch.no_grad():
        Backbone(model, "last")(batch)
    with torch.no_grad():
        vectors = Backbone(model, "last", last_layer="raw")(batch)
        states = model(batch.input_ids, output_hidden_states=True).hidden_states
    assert vectors.shape == (1, 4, 32)
    torch.testing.assert_close(vectors[:, 0], states[1][:, -1], rtol=0, atol=0)


def test_a_layer_that_is_dropped_in_training_is_missed_and_read_otherwise():
    model, batch = any_model("opt", ffn_dim=64, word_embed_proj_dim=32, layerdrop=1.0), batch_of([5])
    assert Backbone(model, "last")(batch).shape == (1, 4, 32)
    with pytest.raises(ModelError, match="layerdrop"):
        Backbone(model.train(), "last")(batch)


@pytest.mark.parametrize(
    ("model_type", "changes", "word"),
    [
        ("albert", {"embedding_size": 16, "inner_group_num": 4}, "ran 4 times"),  # one group of four layers
        ("flaubert", {"emb_dim": 32, "n_layers": 4, "n_heads": 4}, "list of layers"),
        ("vit", {"image_size": 8, "patch_size": 4}, "ViTModel"),
    ],
)
def test_what_is_no_single_stack_of_states_of_tokens_is_refused(model_type, changes, word):
    paths = {"albert": "encoder.albert_layer_groups.0.albert_layers", "flaubert": "ffns"}
    with pytest.raises(ModelError, match=word):
        probe(Backbone(any_model(model_type, **changes), "first", layers=paths.get(model_type)))


def test_layers_that_pool_tokens_are_refused():
    from transformers import FunnelConfig, FunnelModel

    shape = {"d_model": 32, "n_head": 4, "d_head": 8, "block_sizes": [2, 2], "vocab_size": 60}
    with pytest.raises(ModelError, match="Funnel"):
        Backbone(FunnelModel(FunnelConfig(**shape)), "first")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("model_type", "changes", "causal"),
    [
        ("bert", {}, False),
        ("bert", {"is_decoder": True}, True),
        ("bert-generation", {}, False),
        ("gpt2", {}, True),
        ("llama", {"num_key_value_heads": 2}, True),
        ("bloom", {}, True),
        ("xlnet", XLNET, False),
    ],
)
def test_whether_a_model_is_causal_is_asked_of_the_model(model_type, changes, causal, dtype):
    assert probe(Backbone(any_model(model_type, **changes).to(dtype), "first")) is causal


def test_a_probe_leaves_model_and_random_state_as_they_were():
    backbone = tiny_backbone("bert")
    backbone.train()
    backbone.model.encoder.eval()
    modes = [module.training for module in backbone.modules()]
    state = torch.get_rng_state()
    probe(backbone)
    assert modes == [module.training for module in backbone.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in backbone.modules())


def test_outputs_in_a_tuple_are_the_same_states():
    model, batch = tiny_model("bert"), batch_of([5, 3])
    with torch.no_grad():
        expected = Backbone(model, "first")(batch)
        model.config.return_dict = False
        torch.testing.assert_close(Backbone(model, "first")(batch), expected, rtol=0, atol=0)
