"""train=fast with every method, in generation, with segments, and where an architecture allows no cache."""

from __future__ import annotations

import dataclasses

import pytest
from test_generation_run import write
from tiny_models import EXTRA, SMALL
from tiny_runs import NO_DROPOUT, assert_same, compose_tiny, prepare, weights

from layertune.pipeline import execute
from layertune.records import Store
from layertune.training import train

NO_CACHE = "no layer lies below the lowest trained parameter"
EXPECTED = {  # method -> lowest cached depth of tiny BERT's 4 layers, or why there is no cache
    "full": NO_CACHE,
    "head_only": 5,
    "top_k": 3,
    "bottom_k": NO_CACHE,
    "elsa": 3,
    "lora": NO_CACHE,
    "adapters": NO_CACHE,
    "prefix": NO_CACHE,
    "ia3": NO_CACHE,
    "lift": "what is trained changes from phase to phase",
    "slimfit": NO_CACHE,
    "recap": "what is trained changes from phase to phase",
    "lisa": NO_CACHE,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fast")


@pytest.mark.parametrize("method", EXPECTED)
def test_every_method_trains_fast_and_says_what_is_cached(folder, method):
    k = ("method.k=2",) if method in ("top_k", "bottom_k", "elsa") else ()
    run = compose_tiny(folder, f"method={method}", "train=fast", *k)
    record = execute(run, Store(run.results_dir, run.outputs_dir))
    assert record.status == "done"
    cache = record.training.cache
    assert (cache.layer or cache.reason) == EXPECTED[method]
    checks = record.checks
    assert (checks.trained_changed, checks.loss_finite, checks.trainable_matches_selection) == (True,) * 3
    assert checks.frozen_unchanged is not False


@pytest.mark.parametrize(
    ("model", "more"),
    [
        ("tiny_gpt2", ("task=e2e", "eval_generation=last")),
        ("tiny_bert", ("task.segment_ids=standard",)),
    ],
    ids=["generation", "segments"],
)
def test_an_exact_cache_computes_what_the_whole_model_does(tmp_path, model, more):
    data = f"data_dir={write(tmp_path)}"  # of the corpus that is built in nothing is read there
    options = (f"model={model}", "method=top_k", "method.k=2", "train.epochs=2", data, *more)
    options += ("protocol.evaluate=false", *NO_DROPOUT[model])
    published = prepare(compose_tiny(tmp_path / "published", *options))
    fast = prepare(compose_tiny(tmp_path / "fast", *options, "train=fast", "cache.dtype=fp32"))
    assert not train(*published.parts).cache.used
    found = train(*fast.parts).cache
    assert found.used and found.layer == 3
    assert_same(weights(published.model), weights(fast.model), atol=2e-5)


def test_deberta_trains_without_a_cache_and_says_why(folder):
    run = compose_tiny(folder, "method=top_k", "method.k=1", "train=fast", "seed=7")
    shape = {**SMALL, **EXTRA["deberta"], "vocab_size": 768, "max_position_embeddings": 80}
    random = {"model_type": "deberta", **shape}
    model = dataclasses.replace(run.model, random_config=random, max_positions=80)
    run = dataclasses.replace(run, model=model, force=True)
    record = execute(run, Store(run.results_dir, run.outputs_dir))
    assert record.status == "done" and not record.training.cache.used
    assert "deberta" in record.training.cache.reason.lower()
