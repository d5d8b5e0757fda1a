"""Scores kept on disk: shared where they are the same, never where they might differ or are damaged."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from processes import FORK, at_once
from tiny_runs import compose_tiny

from layertune import scoring
from layertune.config import ScoringSpec
from layertune.models import build_model, load_tokenizer
from layertune.scoring import cached
from layertune.scoring.cached import batches_of, cached_scores, score_key, scored_rows
from layertune.tasks import load_task

CPU = torch.device("cpu")


@pytest.fixture
def passes(monkeypatch):
    """Count the scoring passes that are really made."""
    made = []
    for name, scorer in scoring.SCORERS.items():

        def counted(*arguments, name=name, scorer=scorer, **options):
            made.append(name)
            return scorer(*arguments, **options)

        monkeypatch.setitem(cached.SCORERS, name, counted)
    return made


@pytest.fixture
def score(tmp_path):
    """Score the layers of a run composed from overrides."""

    def run_scores(*overrides):
        run = compose_tiny(tmp_path, *overrides)
        data = load_task(run, *load_tokenizer(run.model))
        return cached_scores(run, build_model(run, data.num_outputs, data.kind), data, CPU)

    return run_scores


@pytest.fixture
def key(tmp_path):
    """Return the key of the scores of a run composed from overrides."""

    def of(*overrides):
        run = compose_tiny(tmp_path, *overrides)
        data = load_task(run, *load_tokenizer(run.model))
        return score_key(run, data, scored_rows(len(data.train), run.scoring))

    return of


def test_one_pass_serves_all_methods_of_a_scorer_all_k_and_all_seeds(score, passes):
    first, reused = score("method=low_k")
    assert not reused
    for other in (["method=high_k"], ["method=block_high", "method.k=2"], ["seed=42"], ["train.epochs=9"]):
        again, reused = score(*other)
        assert reused and again == first  # `seconds` too: the cost when first computed
    assert passes == ["cosine"]


def test_of_several_processes_one_scores_and_the_others_wait(score, passes):
    found = FORK.SimpleQueue()
    assert at_once([lambda: found.put((score("method=low_k"), passes))] * 3) == [0, 0, 0]
    answers = [found.get() for _ in range(3)]
    assert sorted(len(made) for _, made in answers) == [0, 0, 1]
    assert sorted(reused for (_, reused), _ in answers) == [False, True, True]
    assert len({scores for (scores, _), _ in answers}) == 1


def test_another_scorer_makes_a_pass_of_its_own(score, passes):
    for scorer in scoring.SCORERS:
        assert not score(f"method.scorer={scorer}")[1]
    assert sorted(passes) == sorted(scoring.SCORERS)


SHARED = [
    ["seed=1"],
    ["method=high_k", "method.k=1"],
    ["train.learning_rate=0.5", "train.label_smoothing=0.1"],
    ["scoring.batch_size=7"],
    ["scoring.tokens=representative"],  # the cosine reads the representative token anyway
    ["model.head_dropout=0.1"],
    ["scoring.examples=64"],  # these are all rows
    ["force=true"],
]
DIFFERENT = [
    ["+model.random_config.hidden_act=relu"],
    ["model=tiny_gpt2"],
    ["protocol.train_examples=48"],
    ["scoring.examples=32"],
    ["task.max_length=8"],
    ["task.segment_ids=standard"],
    ["model.representative=last"],
    ["model.last_layer=raw"],
    ["method=io_low_k"],
]


@pytest.mark.parametrize("overrides", SHARED, ids=" ".join)
def test_what_changes_no_score_changes_no_key(key, overrides):
    assert key(*overrides) == key()


@pytest.mark.parametrize("overrides", DIFFERENT, ids=" ".join)
def test_what_may_change_a_score_changes_the_key(key, overrides):
    assert key(*overrides) != key()


@pytest.mark.parametrize("method", ["io_low_k", "variance_k"])
def test_the_tokens_that_are_read_enter_the_key_of_the_scorers_that_read_them(key, method):
    assert key(f"method={method}", "scoring.tokens=representative") != key(f"method={method}")


@pytest.mark.parametrize("override", ["train.label_smoothing=0.1", "model.rep_norm=rms", "model.head=pooled"])
def test_the_gradient_norm_depends_on_the_loss(key, score, override):
    method = "method=grad_norm_k"
    assert key(method, override) != key(method)
    assert score(method, override)[0].values != score(method)[0].values  # they really differ


@pytest.mark.parametrize("other", ["method=high_k", "method=block_high", "method.k=1"])
def test_scores_on_as_few_examples_as_decide_serve_the_choice_that_they_decided_alone(key, other):
    adaptive = ("scoring.examples=adaptive", "method.k=2")
    assert key(*adaptive, other) != key(*adaptive)
    assert key(*adaptive, "seed=1") == key(*adaptive)


@pytest.mark.parametrize("scorer", ["spectrum", "weight_norm"])
def test_scores_of_weights_serve_every_task_and_every_subset(key, score, scorer):
    method = f"method.scorer={scorer}"
    assert key(method, "protocol.train_examples=48") == key(method) != key()
    assert score(method)[0].examples == 0


def test_which_rows_share_a_batch_enters_no_key(key):
    assert key("method=grad_norm_k", "scoring.batch_size=7") == key("method=grad_norm_k")


def test_the_scores_of_a_subset_are_those_of_its_rows(score):
    subset, _ = score("scoring.examples=32")
    everything, _ = score()
    assert (subset.examples, everything.examples) == (32, 64)
    assert subset.values != everything.values


def damaged(text):
    kept = json.loads(text)
    values = kept["scores"]["values"]
    yield ""
    yield text[: len(text) // 2]
    yield "[]"
    yield json.dumps({"key": kept["key"], "tensors": {}, "scores": kept["scores"]})  # no checksum
    yield json.dumps({**kept, "scores": {**kept["scores"], "values": values[:2]}})
    yield json.dumps({**kept, "scores": {**kept["scores"], "values": [*values[:-1], 0.5]}})  # one digit off
    yield json.dumps({**kept, "scores": {**kept["scores"], "std": "none"}})


def test_a_damaged_file_is_never_trusted_and_is_written_anew(score, tmp_path, passes, caplog):
    first, _ = score()
    (path,) = (tmp_path / "outputs" / "cache" / "scores").glob("*/facts.json")
    for number, text in enumerate(damaged(path.read_text()), start=1):
        caplog.clear()
        path.write_text(text)
        again, reused = score()
        assert not reused and again.values == first.values
        assert path.parent.name in caplog.text and "refused" in caplog.text
        assert len(passes) == 1 + number
        assert score() == (again, True)


def test_rows_are_all_of_them_or_one_draw_for_all_seeds():
    assert scored_rows(5, ScoringSpec()).tolist() == [0, 1, 2, 3, 4]
    assert scored_rows(5, ScoringSpec(examples=5)).tolist() == [0, 1, 2, 3, 4]
    drawn = scored_rows(1000, ScoringSpec(examples=100))
    assert len(set(drawn.tolist())) == 100 and (np.diff(drawn) > 0).all()
    assert drawn.max() > 900  # a draw, not the first hundred
    assert np.array_equal(drawn, scored_rows(1000, ScoringSpec(examples=100)))


def test_batches_hold_exactly_the_rows_asked_for(tmp_path):
    run = compose_tiny(tmp_path)
    data = load_task(run, *load_tokenizer(run.model))
    rows = np.array([3, 5, 8, 40, 41, 63])
    batches = list(batches_of(data.train.store, rows, 4, CPU))
    assert [len(batch) for batch in batches] == [4, 2]
    assert sorted(int(i) for batch in batches for i in batch.indices) == rows.tolist()
    for batch in batches:
        alone = data.train.store.batch(batch.indices)
        assert torch.equal(batch.input_ids, alone.input_ids)


def test_the_result_does_not_depend_on_how_rows_are_batched(tmp_path, score):
    first, _ = score("scoring.batch_size=64")
    shutil.rmtree(tmp_path / "outputs" / "cache" / "scores")
    second, _ = score("scoring.batch_size=7")
    np.testing.assert_allclose(second.values, first.values, rtol=0, atol=1e-6)
    assert dataclasses.asdict(second).keys() == dataclasses.asdict(first).keys()


@pytest.mark.parametrize(("method", "default"), [("io_low_k", "all"), ("variance_k", "representative")])
def test_without_a_word_about_tokens_each_scorer_reads_its_own_default(score, method, default):
    unsaid = score(f"method={method}")[0].values
    other = {"all": "representative", "representative": "all"}[default]
    assert unsaid == score(f"method={method}", f"scoring.tokens={default}")[0].values
    assert unsaid != score(f"method={method}", f"scoring.tokens={other}")[0].values
