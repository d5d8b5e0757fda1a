"""train=fast in the one loop: what it leaves out, what it must not change, and what it reports."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_runs import (
    NO_DROPOUT,
    assert_resumes_exactly,
    assert_same,
    compose_tiny,
    prepare,
    timeless,
    weights,
)

from layertune.cache_store import CacheStore
from layertune.errors import ConfigError
from layertune.fast.cache import why_no_cache
from layertune.fast.last_layer import OneToken
from layertune.fast.stepper import is_steady, lowest_trained, quiet_below
from layertune.methods import METHODS
from layertune.training import train

FAST = ("train=fast", "method=top_k", "method.k=2")  # of 4 layers: 3 and 4


def outcome_of(case):
    return train(*case.parts)


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2"])
@pytest.mark.parametrize("method", ["top_k", "head_only"])
def test_without_dropout_fast_training_is_published_training(prepared, model, method):
    options = (f"model={model}", f"method={method}", *NO_DROPOUT[model], "train.epochs=2")
    published, fast = prepared(*options), prepared(*options, "train=fast", "cache.dtype=fp32")
    first, second = outcome_of(published), outcome_of(fast)
    assert second.cache.used and not first.cache.used
    assert second.cache.layer == (2 if method == "top_k" else 5)  # k = 3 of 4 layers
    assert_same(weights(published.model), weights(fast.model), atol=1e-5)
    assert [e["loss"] for e in second.history] == pytest.approx([e["loss"] for e in first.history], rel=1e-4)


@pytest.mark.parametrize("method", ["full", "lisa"])
def test_where_the_embeddings_train_fast_is_published_to_the_bit(prepared, method):
    published, fast = (prepared(f"method={method}", f"train={mode}") for mode in ("published", "fast"))
    first, second = outcome_of(published), outcome_of(fast)
    assert_same(weights(published.model), weights(fast.model))
    assert timeless(first.history) == timeless(second.history)
    assert not second.cache.used and "no layer lies below" in second.cache.reason


@pytest.mark.parametrize(
    ("options", "lowest", "cached"),
    [(FAST, 3, True), (("train=fast", "method=bottom_k", "method.k=2"), 1, False)],
)
def test_dropout_is_off_below_the_lowest_trained_layer_in_every_epoch(prepared, options, lowest, cached):
    case = prepared(*options, "train.epochs=3")
    steps = []

    class Looking(type(case.method)):
        def after_backward(self, model, step):
            steps.append({name: module.training for name, module in model.named_modules()})

    case.method = Looking(case.run)
    assert outcome_of(case).cache.used is cached
    assert len(steps) == 12  # 64 rows in batches of 16, three times
    for seen in steps:
        layers = [n for n in seen if n.startswith("backbone.model.encoder.layer.")]
        assert len(layers) > 40
        for name in layers:
            assert seen[name] == (int(name.split(".")[4]) + 1 >= lowest), name
        assert not any(on for name, on in seen.items() if name.startswith("backbone.model.embeddings"))
        assert all(on for name, on in seen.items() if name.startswith("head"))


@pytest.mark.parametrize(
    ("options", "bytes_kept"), [(FAST, True), (FAST[1:], False), (("train=fast", "method=full"), False)]
)
def test_dropout_keeps_bytes_in_fast_training_alone_where_something_lies_below(prepared, options, bytes_kept):
    case = prepared(*options)
    seen = []

    class Looking(type(case.method)):
        def after_backward(self, model, step):
            seen.append({"forward" in vars(m) for m in model.modules() if type(m) is torch.nn.Dropout})

    case.method = Looking(case.run)
    outcome_of(case)
    assert seen and all(found == {bytes_kept} for found in seen)
    assert not any("forward" in vars(module) for module in case.model.modules())  # afterwards it is torch's


def test_lora_has_no_dropout_in_the_embeddings_below_it(prepared):
    case = prepared("method=lora", "train=fast")
    held = {name for name, p in case.model.named_parameters() if p.requires_grad}
    assert lowest_trained(case.model, held) == 1
    case.model.train()
    quiet_below(case.model, 1)
    assert not case.model.backbone.model.embeddings.dropout.training
    assert case.model.backbone.layers[0].output.dropout.training


def test_a_cache_is_shared_by_seeds_rates_strategies_and_k_and_its_first_cost_is_told(tmp_path):
    options = ("train=fast", "method=top_k", "method.k=2")
    first = outcome_of(prepare(compose_tiny(tmp_path, *options))).cache
    assert (first.used, first.reused, first.layer, first.dtype) == (True, False, 3, "bf16")
    assert first.seconds > 0 and first.cpu_seconds > 0
    assert first.place.startswith("memory")
    (facts,) = tmp_path.glob("**/prefix/*/facts.json")
    made = json.loads(facts.read_text())["cost"]  # of the cache's own pass, without checking and opening it
    assert first.seconds > made["seconds"]
    others = [
        (*options, "seed=1", "train.learning_rate=1e-4"),
        (*options, "train.batch_size=8", "train.epochs=2"),
        ("train=fast", "method=elsa", "method.k=2"),
    ]
    for other in others:
        found = outcome_of(prepare(compose_tiny(tmp_path, *other))).cache
        assert (found.used, found.reused, found.layer, found.bytes) == (True, True, 3, first.bytes), other
        assert found.seconds > made["seconds"] and found.cpu_seconds > made["cpu_seconds"], other
    deeper = outcome_of(prepare(compose_tiny(tmp_path, "train=fast", "method=top_k", "method.k=1"))).cache
    assert (deeper.layer, deeper.reused) == (4, False)


def test_cache_layer_makes_one_entry_serve_all_deeper_runs(tmp_path):
    options = ("train=fast", "method=top_k", "cache.layer=2", *NO_DROPOUT["tiny_bert"])
    found = [outcome_of(prepare(compose_tiny(tmp_path, *options, f"method.k={k}"))).cache for k in (3, 2, 1)]
    assert [cache.layer for cache in found] == [2, 2, 2]
    assert [cache.reused for cache in found] == [False, True, True]


def test_an_exact_cache_starts_from_a_shallower_one_and_counts_its_cost(tmp_path, caplog):
    options = ("train=fast", "method=top_k", "cache.dtype=fp32", *NO_DROPOUT["tiny_bert"])
    with caplog.at_level("INFO"):
        shallow = outcome_of(prepare(compose_tiny(tmp_path, *options, "method.k=3"))).cache
        case = prepare(compose_tiny(tmp_path, *options, "method.k=1"))
        deep = outcome_of(case).cache
    assert "starts from that of layer 2" in caplog.text
    assert deep.seconds > shallow.seconds and not deep.reused
    alone = prepare(compose_tiny(tmp_path / "alone", *options, "method.k=1"))
    outcome_of(alone)
    assert_same(weights(case.model), weights(alone.model))  # the order of runs does not matter


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("method=bottom_k",), "no layer lies below"),
        (("method=lift",), "from phase to phase"),
        (("method=lora",), "no layer lies below"),
    ],
)
def test_why_there_is_no_cache_is_logged_and_recorded(prepared, options, reason, caplog):
    case = prepared("train=fast", *options)
    with caplog.at_level("INFO"):
        cache = outcome_of(case).cache
    assert not cache.used and reason in cache.reason
    assert f"prefix cache: not used ({cache.reason})" in caplog.text


@pytest.mark.parametrize("where", ["layers.0.output", "model.embeddings", "model"])
def test_a_method_that_acts_inside_a_lower_layer_gets_no_cache(prepared, where):
    case = prepared(*FAST)
    case.model.backbone.get_submodule(where).register_forward_hook(lambda *_: None)
    cache = outcome_of(case).cache
    assert not cache.used and cache.reason == "something is hooked to a layer below"


def test_a_method_that_changes_how_a_lower_layer_computes_gets_no_cache(prepared):
    case = prepared(*FAST)
    embeddings = case.model.backbone.model.embeddings
    embeddings.forward = embeddings.forward  # as wrappers do
    cache = outcome_of(case).cache
    assert not cache.used and "another than its class's" in cache.reason


def test_looking_for_a_cache_and_checking_it_is_part_of_its_cost(prepared, monkeypatch):
    real = CacheStore.find
    monkeypatch.setattr(CacheStore, "find", lambda *args: time.sleep(0.1) or real(*args))
    assert outcome_of(prepared(*FAST)).cache.seconds > 0.3  # before, once more alone, and after its making


def no_space(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def read_only(*_):
    raise OSError(errno.EROFS, "Read-only file system")


NOT_KEPT = {  # an option, or what becomes of the disk when the run has read its rows
    "cache.max_gb is 0": "cache.max_gb=0",
    "cache.max_gb is 1e-06": "cache.max_gb=1e-6",
    "the disk has 0.00 GB left": (shutil, "disk_usage", lambda _: SimpleNamespace(free=0)),
    "could not be written: No space left": (os, "posix_fallocate", no_space),
    "could not be written: Read-only": (CacheStore, "building", read_only),
    "another run needed its room": (CacheStore, "find", lambda *_: None),
}


@pytest.mark.parametrize(
    ("reason", "dtype"),
    [*((reason, "bf16") for reason in NOT_KEPT), ("cache.max_gb is 0", "fp32"), ("cache.max_gb is 0", "fp8")],
)
def test_what_is_trained_does_not_depend_on_whether_the_cache_could_be_kept(
    prepared, monkeypatch, tmp_path, reason, dtype
):
    options = (*FAST, f"cache.dtype={dtype}", "train.epochs=2")
    kept = prepared(*options)
    first = outcome_of(kept)
    shutil.rmtree(tmp_path / "outputs")
    why = NOT_KEPT[reason]
    lost = prepared(*options, *([why] if isinstance(why, str) else []))
    if not isinstance(why, str):
        monkeypatch.setattr(*why)
    second = outcome_of(lost)
    assert_same(weights(kept.model), weights(lost.model))
    assert timeless(first.history) == timeless(second.history)
    assert first.cache.used and second.cache.used and not second.cache.reused
    assert reason in second.cache.place and second.cache.place.startswith("memory")
    assert second.cache.seconds > 0 and second.cache.bytes == first.cache.bytes


def test_a_cache_that_neither_disk_nor_memory_can_hold_is_refused_before_training(prepared, monkeypatch):
    monkeypatch.setattr("layertune.fast.cache._memory_available", lambda: 1000)
    with pytest.raises(ConfigError, match=r"cache\.max_gb"):
        outcome_of(prepared(*FAST, "cache.max_gb=0"))


def test_a_language_model_of_which_only_the_final_norm_trains_gets_no_cache(prepared):
    """Its head reads what the last layer makes of every token, and a cache would end below the head."""

    case = prepared("model=tiny_gpt2", "method=full", "train=fast")
    case.model.requires_grad_(False)
    case.model.backbone.final_norm.requires_grad_(True)
    held = {name for name, p in case.model.named_parameters() if p.requires_grad}
    lowest = lowest_trained(case.model, held)
    assert lowest == 5
    case.model.kind = "generation"
    reason = why_no_cache(case.model, lowest, num_phases=1, own=True)
    assert reason == "the language model's head reads what the last layer makes of every token"


def test_steps_are_captured_only_where_no_hook_can_change_them(prepared):
    steady = {name for name, method in METHODS.items() if is_steady(method)}
    assert {"full", "selected"} <= steady
    assert not {"lisa", "slimfit", "recap"} & steady


def test_a_damaged_cache_is_made_anew(tmp_path, caplog):
    options = (*FAST, *NO_DROPOUT["tiny_bert"])
    first = prepare(compose_tiny(tmp_path, *options))
    outcome_of(first)
    (states,) = Path(first.run.cache_dir).glob("prefix/*/states")
    states.write_bytes(states.read_bytes()[::-1])
    second = prepare(compose_tiny(tmp_path, *options))
    cache = outcome_of(second).cache
    assert cache.used and not cache.reused and "checksum" in caplog.text
    assert_same(weights(first.model), weights(second.model))


def test_reused_and_new_caches_train_the_same(tmp_path):
    cases = [prepare(compose_tiny(tmp_path, *FAST)) for _ in range(2)]
    reused = [outcome_of(case).cache.reused for case in cases]
    assert reused == [False, True]
    assert_same(weights(cases[0].model), weights(cases[1].model))


def test_the_model_is_whole_again_after_training(prepared):
    case = prepared(*FAST)
    outcome_of(case)
    assert case.model.backbone.last_block is None
    assert len(case.model.backbone.layers) == 4


def test_micro_batches_come_from_the_cache_too(prepared):
    options = (*FAST, "cache.dtype=fp32", *NO_DROPOUT["tiny_bert"])
    whole, parts = prepared(*options), prepared(*options, "train.micro_batch=4")
    assert outcome_of(parts).cache.used and outcome_of(whole).cache.used
    assert_same(weights(whole.model), weights(parts.model), atol=1e-5)


def test_a_fast_run_resumes_exactly(prepared, monkeypatch):
    assert_resumes_exactly(prepared, monkeypatch, *FAST)


def test_the_optimiser_holds_the_trained_parameters_and_gradients_stop_at_the_lowest_layer(prepared):
    case = prepared(*FAST)
    seen = []

    class Looking(type(case.method)):
        def optimizer_ready(self, optimizer, phase):
            self.held = {p for group in optimizer.param_groups for p in group["params"]}

        def after_backward(self, model, step):
            with_gradient = {p for p in model.parameters() if p.grad is not None}
            wanted = {p for p in model.parameters() if p.requires_grad}
            seen.append(with_gradient == self.held == wanted)

    case.method = Looking(case.run)
    outcome_of(case)
    assert seen and all(seen)


def test_evaluation_gives_the_same_answers_with_the_short_last_layer(prepared):
    from layertune.evaluation.evaluate import predict

    case = prepared(*FAST)
    split = case.data.evals["demo"]
    plain = predict(case.model, split, case.runtime, 32)
    case.model.backbone.last_block = OneToken
    assert np.array_equal(plain, predict(case.model, split, case.runtime, 32))
    assert torch.is_grad_enabled()
