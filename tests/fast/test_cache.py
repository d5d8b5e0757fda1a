"""The cache gives batches whose logits and gradients are those of the plain model; its key misses nothing."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import tiny_task_model

from layertune.cache_store import CacheStore
from layertune.errors import ModelError
from layertune.fast import cache
from layertune.fast.cache import (
    build_entry,
    choose_place,
    entry_bytes,
    open_source,
    prefix_key,
    shallower_key,
)
from layertune.fast.last_layer import OneToken
from layertune.tasks import TokenStore

LENGTHS = [9, 5, 16, 3, 12, 30, 8, 1, 7]
ROWS = np.array([4, 0, 7, 2])
CPU = torch.device("cpu")


def token_store(seed: int = 0) -> TokenStore:
    rng = np.random.default_rng(seed)
    return TokenStore(
        ids=rng.integers(3, 60, sum(LENGTHS)).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(LENGTHS)]),
        segments=None,
        labels=rng.integers(0, 3, len(LENGTHS)),
        truncated=0,
        pad_id=1,
        max_length=32,
    )


def key_of(model, store, layer=3, dtype="fp64", **changes):
    facts = {"weights": "w", "fingerprint": "f", "precision": "fp32"} | changes
    return prefix_key(model, store, layer, dtype, **facts)


def source_of(model, tmp_path, layer, dtype, place="memory", batch_of=None):
    store, cache = token_store(), CacheStore(tmp_path / f"{layer}-{dtype}", 10**9)
    key = key_of(model, store, layer, dtype)
    build_entry(model, store, layer, dtype, cache, key, nullcontext, batch_of)
    entry = cache.find(key)
    assert entry.num_bytes == entry_bytes(model, store, layer, dtype)
    return open_source(entry, store, layer, next(model.parameters()).dtype, CPU, place)


def logits_and_gradients(model, batch):
    output = model(batch)
    wanted = [p for p in model.parameters() if p.requires_grad]
    return [output.logits, *(torch.autograd.grad(output.loss, wanted))]


CACHED = ["bert", "roberta", "electra", "mpnet", "gpt2", "llama", "gemma2"]


@pytest.mark.parametrize(
    ("model_type", "place"),
    [*((name, "memory") for name in CACHED), ("bert", "disk"), ("bert", "device"), ("gpt2", "disk")],
)
def test_batches_of_the_cache_train_as_padded_ones_do(model_type, place, tmp_path):
    model = tiny_task_model(model_type).double()
    model.requires_grad_(False)
    for part in (model.head, model.backbone.layers[2], model.backbone.layers[3]):
        part.requires_grad_(True)
    source = source_of(model, tmp_path, 3, "fp64", place)
    plain = logits_and_gradients(model, source.store.batch(ROWS))
    model.backbone.last_block = OneToken
    cached = logits_and_gradients(model, source.batch(ROWS))
    for ours, theirs in zip(cached, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_where_only_the_head_trains_no_layer_runs(tmp_path):
    model = tiny_task_model("bert").double()
    source = source_of(model, tmp_path, 5, "fp64")
    assert set(source.tensors) == {"representatives"}
    for layer in model.backbone.layers:
        layer.register_forward_pre_hook(lambda *_: pytest.fail("a layer ran"))
    logits = model(source.batch(ROWS)).logits
    for layer in model.backbone.layers:
        layer._forward_pre_hooks.clear()
    torch.testing.assert_close(logits, model(source.store.batch(ROWS)).logits, rtol=0, atol=1e-12)


def test_generation_keeps_no_representative_vectors(tmp_path):
    model = replace_kind(tiny_task_model("gpt2"), "generation")
    source = source_of(model, tmp_path, 3, "fp32")
    assert set(source.tensors) == {"states"}
    batch = source.batch(ROWS)
    real = batch.attention_mask.bool()
    with torch.no_grad():
        found, plain = model.backbone.run(batch), model.backbone.run(source.store.batch(ROWS))
    torch.testing.assert_close(found[real], plain[real], rtol=0, atol=1e-5)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize(("model_type", "layer"), [("bert", 3), ("bert", 5), ("gpt2", 3)])
def test_states_that_are_not_finite_are_refused_and_nothing_of_them_is_kept(
    model_type, layer, number, tmp_path
):
    model = tiny_task_model(model_type).double()
    with torch.no_grad():
        list(model.backbone.layers[1].parameters())[-1][0] = number
    with pytest.raises(ModelError, match=f"below layer {layer}"):
        source_of(model, tmp_path, layer, "fp64")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def replace_kind(model, kind):
    model.kind = kind
    return model


@pytest.mark.parametrize(("dtype", "bytes_per_number", "error"), [("bf16", 2, 2**-8), ("fp8", 1, 2**-4)])
def test_rounded_states_are_off_by_no_more_than_their_mantissa(dtype, bytes_per_number, error, tmp_path):
    model = tiny_task_model("bert")
    exact, rounded = (source_of(model, tmp_path, 3, name) for name in ("fp32", dtype))
    assert rounded.tensors["states"].element_size() == bytes_per_number
    first, second = exact.batch(ROWS).lower, rounded.batch(ROWS).lower
    assert second.states.dtype == torch.float32
    largest = first.states.abs().amax(-1, keepdim=True)
    assert ((first.states - second.states).abs() <= error * first.states.abs() + 2**-9 * largest).all()
    assert not torch.equal(first.states, second.states)
    torch.testing.assert_close(first.representatives, second.representatives, rtol=2**-8, atol=0)


def test_an_exact_cache_of_a_deeper_layer_is_the_same_from_a_shallower_one(tmp_path):
    model = tiny_task_model("bert")
    shallow, direct = (source_of(model, tmp_path, layer, "fp32") for layer in (2, 4))
    onward = source_of(model, tmp_path / "onward", 4, "fp32", batch_of=shallow.batch)
    for name in ("states", "representatives"):
        torch.testing.assert_close(onward.tensors[name], direct.tensors[name], rtol=1e-6, atol=1e-6)


def test_building_leaves_the_modes_of_modules_and_the_random_state_alone(tmp_path):
    model = tiny_task_model("bert").train()
    state = torch.get_rng_state()
    first = source_of(model, tmp_path / "a", 3, "fp32").tensors["states"]
    assert torch.equal(state, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(first, source_of(model.eval(), tmp_path / "b", 3, "fp32").tensors["states"])


def test_anything_the_states_depend_on_changes_the_key(tmp_path):
    model, store = tiny_task_model("bert"), token_store()
    base = key_of(model, store)
    other_length = replace(store, max_length=31)
    segments = replace(store, segments=np.zeros(len(store.ids), np.uint8))
    pooled_last = tiny_task_model("bert")
    pooled_last.backbone.representative_token = "last"
    eager = tiny_task_model("bert")
    eager.backbone.model.config._attn_implementation = "eager"
    raw = tiny_task_model("gpt2", last_layer="raw")
    edited, above, swapped = (tiny_task_model("bert") for _ in range(3))
    eps, buffered = tiny_task_model("bert"), tiny_task_model("bert")
    eps.backbone.model.config.layer_norm_eps *= 2
    buffered.backbone.layers[0].register_buffer("shift", torch.zeros(1))
    with torch.no_grad():
        weight = swapped.backbone.layers[1].output.dense.weight
        weight[[0, 1]] = weight[[1, 0]]
        edited.backbone.layers[1].output.dense.weight.mul_(2)
        above.backbone.layers[2].output.dense.weight.mul_(2)  # layer 3 is not run by the cache of layer 3
    keys = [
        base,
        key_of(model, store, layer=4),
        key_of(model, store, dtype="bf16"),
        key_of(model, store, weights="v"),
        key_of(model, store, fingerprint="g"),
        key_of(model, store, precision="bf16"),
        key_of(model, token_store(seed=1)),
        key_of(model, other_length),
        key_of(model, segments),
        key_of(pooled_last, store),
        key_of(eager, store),
        key_of(edited, store),
        key_of(swapped, store),
        key_of(eps, store),
        key_of(buffered, store),
        key_of(tiny_task_model("gpt2"), store),
        key_of(raw, store),
        key_of(replace_kind(tiny_task_model("gpt2"), "generation"), store),
    ]
    paths = {CacheStore(tmp_path, 1).path(key) for key in keys}
    assert len(paths) == len(keys)
    moved = tiny_task_model("bert")
    moved.backbone.model.config._name_or_path = "another/folder"
    assert key_of(tiny_task_model("bert"), token_store()) == base == key_of(above, store)
    assert key_of(moved, store) == base
    assert shallower_key(key_of(model, store, layer=4), model, 3) == base


@pytest.mark.parametrize(("place", "read"), [("memory", 2), ("disk", 0), ("device", 0)])
def test_in_memory_a_cache_is_read_in_when_it_is_opened(place, read, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(cache, "_read_in", lambda tensor: seen.append(tensor.shape))
    source_of(tiny_task_model("bert"), tmp_path, 3, "bf16", place)
    assert len(seen) == read  # states and representatives
    monkeypatch.undo()
    for dtype in ("fp8", "bf16"):  # what is read in is any kind of number, or nothing at all
        cache._read_in(torch.zeros(3, 5).to(cache.DTYPES[dtype]))
    cache._read_in(torch.empty(0, 4))


@pytest.mark.parametrize(("available", "place"), [(400, "memory"), (399, "disk"), (None, "disk")])
def test_the_place_follows_from_the_size(available, place, monkeypatch):
    monkeypatch.setattr(cache, "_memory_available", lambda: available)
    assert choose_place(100, CPU)[0] == place


def test_bytes_of_bert_base_on_sst2_are_those_of_the_specification():
    """1,536 bytes per token and 1,536 (l - 1) per example: 67,349 examples of 13.3 tokens, l = 10: 2.3 GB."""
    store = token_store()
    lengths = np.full(67349, 13)
    large = replace(store, ids=np.zeros(lengths.sum(), np.int32), offsets=np.append(0, np.cumsum(lengths)))
    model = tiny_task_model("bert")
    small = entry_bytes(model, large, 4, "bf16")
    assert small == 2 * 32 * (67349 * 13 + 3 * 67349)
