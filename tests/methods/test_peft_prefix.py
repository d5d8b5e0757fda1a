"""Prefixes: computed again by hand and through the library's cache; positions, padding, decoding."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from added_cases import WITH_CACHE, added, insert, language_model, method_of, shake
from tiny_models import batch_of, tiny_model, tiny_task_model
from transformers import DynamicCache

from layertune.config import ModelSpec
from layertune.errors import ConfigError
from layertune.methods.prefix import prefix_of

P = 5
LANGUAGE_MODELS = ["gpt2", "gemma2", "llama"]


def with_prefix(model_type: str, model=None, **options):
    """A model with a moved prefix, and peft's encoder that holds it."""
    model = model or tiny_task_model(model_type)
    shake(added(model, insert("prefix", model, length=P, **options)).values(), scale=1.0)
    (encoder,) = {m for m in model.modules() if type(m).__name__ == "PrefixEncoder"}
    return model, encoder


def librarys_cache(encoder, model_type: str, rows: int) -> DynamicCache:
    """The prefix as the library cuts it out of the encoder's output, in a cache of past tokens."""
    heads, width = (2, 8) if model_type in ("gemma2", "llama") else (4, 8)
    flat = encoder(torch.arange(P))[None].expand(rows, -1, -1)  # [B, P, 4 layers * 2 * heads * width]
    parts = flat.view(rows, P, 8, heads, width).permute(2, 0, 3, 1, 4).split(2)
    cache = DynamicCache()
    for layer, (key, value) in enumerate(parts):
        cache.update(key, value, layer)
    return cache


def test_one_attention_worked_out_by_hand():
    model, encoder = with_prefix("bert")
    block = model.backbone.layers[2]
    attention, states = block.attention.self, torch.randn(2, 6, 32)
    # Layer 3 owns columns 2 · 2 · 32 to 3 · 2 · 32 of the table: its keys, then its values.
    key, value = encoder.embedding.weight[:, 128:192].split(32, dim=1)
    expected = []
    for row in states:
        heads = []
        for head in range(4):
            own = slice(head * 8, head * 8 + 8)
            keys = torch.cat([key[:, own], attention.key(row)[:, own]])  # [5 + 6, 8]
            values = torch.cat([value[:, own], attention.value(row)[:, own]])
            weights = (attention.query(row)[:, own] @ keys.T / 8**0.5).softmax(-1)
            heads.append(weights @ values)
        expected.append(torch.cat(heads, dim=1))
    torch.testing.assert_close(attention(states)[0], torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mlp", [False, True])
@pytest.mark.parametrize("model_type", WITH_CACHE)
def test_a_whole_model_equals_the_library_with_the_prefix_as_its_past_and_positions_unmoved(model_type, mlp):
    model, encoder = with_prefix(model_type, mlp=mlp)
    plain, batch = tiny_model(model_type), batch_of([9, 4, 6])
    first = 2 if model_type == "roberta" else 0  # RoBERTa counts from its padding id + 1
    positions = torch.arange(first, first + 9).expand(3, -1)
    if model_type == "roberta":
        positions = torch.where(batch.attention_mask == 1, positions, 1)
    reference = plain(
        input_ids=batch.input_ids,
        attention_mask=torch.cat([torch.ones(3, P, dtype=torch.long), batch.attention_mask], dim=1),
        position_ids=positions,
        past_key_values=librarys_cache(encoder, model_type, 3),
        use_cache=True,
    ).last_hidden_state
    real = batch.attention_mask == 1
    states = model.backbone.run(batch)
    torch.testing.assert_close(states[real], reference[real], rtol=1e-4, atol=1e-5)
    without = tiny_model(model_type)(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    assert (states - without.last_hidden_state)[real].abs().max() > 0.01


@pytest.mark.parametrize("model_type", WITH_CACHE)
def test_padding_changes_nothing(model_type):
    # Without padding the library leaves the mask out: causal models must stay causal all the same.
    model, _ = with_prefix(model_type)
    padded, alone = batch_of([4], width=9), batch_of([4])
    torch.testing.assert_close(model(padded).logits, model(alone).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_both_attention_implementations_agree(model_type):
    outputs = []
    for attention in ("sdpa", "eager"):
        model = tiny_task_model(model_type)
        model.backbone.model.set_attn_implementation(attention)
        with_prefix(model_type, model)
        outputs.append([model.representatives(batch_of(lengths)) for lengths in ([9, 4], [6, 6])])
    for sdpa, eager in zip(*outputs, strict=True):
        torch.testing.assert_close(sdpa, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", WITH_CACHE)
def test_a_prefix_takes_no_position_so_the_longest_input_still_fits(model_type):
    model, _ = with_prefix(model_type)
    longest = 38 if model_type == "roberta" else 40  # of 40 positions RoBERTa leaves two out
    assert model(batch_of([longest])).logits.isfinite().all()


@pytest.mark.parametrize("model_type", WITH_CACHE)
def test_every_layer_reads_its_columns_of_the_mlps_output(model_type):
    model, encoder = with_prefix(model_type, mlp=True)
    heads, width = (2, 8) if model_type in ("gemma2", "llama") else (4, 8)
    cache = librarys_cache(encoder, model_type, 1)
    for layer in range(1, 5):
        key, value = prefix_of(encoder, layer, heads, width)
        torch.testing.assert_close(key[None], cache.layers[layer - 1].keys)
        torch.testing.assert_close(value[None], cache.layers[layer - 1].values)
    model(batch_of([9, 4])).loss.backward()
    assert all(parameter.grad.any() for parameter in encoder.parameters())


def left_padded(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.stack([F.pad(row, (width - len(row), 0), value=1) for row in rows])
    mask = torch.stack([F.pad(torch.ones_like(row), (width - len(row), 0)) for row in rows])
    return ids, mask


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("model_type", LANGUAGE_MODELS)
def test_decoding_left_padded_rows_equals_decoding_each_alone(model_type, beams):
    model, _ = with_prefix(model_type, language_model(model_type))
    batch = batch_of([7, 3, 5])
    rows = [ids[: int(mask.sum())] for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    options = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False, "pad_token_id": 1}
    ids, mask = left_padded(rows)
    together = model.causal_lm.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :]
    for row, found in zip(rows, together, strict=True):
        alone = model.causal_lm.generate(row[None], **options)[0, len(row) :]
        assert torch.equal(found[: len(alone)], alone) and (found[len(alone) :] == 1).all()


@pytest.mark.parametrize("model_type", LANGUAGE_MODELS)
def test_decoding_with_a_cache_equals_the_training_path_token_by_token(model_type):
    model, _ = with_prefix(model_type, language_model(model_type))
    batch = batch_of([7])
    plain = language_model(model_type).causal_lm(batch.input_ids).logits
    assert (model.causal_lm(batch.input_ids).logits - plain).abs().max() > 0.01
    decoded = model.causal_lm.generate(batch.input_ids, max_new_tokens=6, do_sample=False, pad_token_id=1)
    ids = batch.input_ids
    for _ in range(decoded.shape[1] - 7):
        more = torch.cat([ids, ids[:, :1]], dim=1)  # any token in the place of the next one
        grown = dataclasses.replace(batch, input_ids=more, attention_mask=torch.ones_like(more), labels=more)
        ids = torch.cat([ids, model(grown).logits[None, -1:].argmax(-1)], dim=1)
    assert torch.equal(decoded, ids)


SPECS = {
    "deberta": ModelSpec(source="microsoft/deberta-base"),
    "deberta-v2": ModelSpec(source="microsoft/deberta-v3-base"),
    "mpnet": ModelSpec(source="random", random_config={"model_type": "mpnet"}),
}


@pytest.mark.parametrize("model_type", SPECS)
def test_architectures_without_a_place_for_a_prefix_are_refused_at_start_and_with_the_weights(model_type):
    reason = f"method=prefix does not work on {model_type}: its attention scores keys by their distance"
    with pytest.raises(ConfigError, match=reason):
        method_of("prefix", model=SPECS[model_type])
    with pytest.raises(ConfigError, match=reason):
        insert("prefix", tiny_task_model(model_type))


def test_an_attention_that_hides_its_mask_is_refused():
    with pytest.raises(ConfigError, match="to eager or sdpa"):
        method_of("prefix", model=ModelSpec(attention="flash_attention_2"))
