"""E2E from rows on disk to a record with all five metrics, on a random GPT-2 (Table 3)."""

from __future__ import annotations

import hashlib
import itertools
import json
import random

import pytest
from tiny_runs import composed

from layertune.config.compose import compose_run
from layertune.errors import ConfigError, JavaError
from layertune.evaluation.nlg import scorer
from layertune.evaluation.nlg import text as texts
from layertune.pipeline import execute
from layertune.records import Store, read_record

FOODS, AREAS = ("Chinese", "Italian", "French"), ("riverside", "city centre")
OFFICIAL = {"bleu", "nist", "meteor", "rouge_l", "cider", "nist_mean_reference"}
FORCED = {"loss", "perplexity", "token_accuracy"}
SECONDARY = {"nltk_bleu", "nltk_nist", "rouge_score_rouge_l"}


def write(folder, meanings=6):
    """Restaurants by name, food and area, two or three references each, official by their manifest."""
    (folder / "e2e").mkdir(parents=True)
    listed = {}
    for split, shift in (("train", 0), ("validation", 100), ("test", 200)):
        choices = itertools.islice(itertools.cycle(itertools.product(FOODS, AREAS)), meanings)
        rows = []
        for number, (food, area) in enumerate(choices):
            mr = f"name[Pub {number + shift}], food[{food}], area[{area}]"
            texts = [
                f"Pub {number + shift} serves {food} food in the {area}.",
                f"A {food} pub is Pub {number}.",
            ]
            texts += [f"Go to the {area} for {food} food."] * (number % 2)
            rows += [{"meaning_representation": mr, "human_reference": text} for text in texts]
        random.Random(0).shuffle(rows)
        path = folder / "e2e" / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        listed[f"e2e/{split}.jsonl"] = {"status": "official", "unique_meaning_representations": meanings}
    (folder / "manifest.json").write_text(json.dumps({"files": listed}))
    return folder


@pytest.fixture
def request_run(tmp_path):
    data = write(tmp_path / "data")

    def make(*overrides):
        return composed(
            "model=tiny_gpt2",
            "task=e2e",
            "tracking=disabled",
            f"data_dir={data}",
            f"outputs_dir={tmp_path / 'outputs'}",
            f"results_dir={tmp_path / 'results'}",
            "task.decoding.num_beams=3",
            "task.decoding.max_new_tokens=8",
            "train.epochs=2",
            *overrides,
        )

    return make


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results", tmp_path / "outputs")


@pytest.fixture
def no_java(monkeypatch):
    """METEOR takes seconds to start; these tests are about everything else."""

    def missing(path=None):
        raise JavaError("no Java here")

    monkeypatch.setattr(scorer, "find_java", missing)


def predictions(run):
    folder = run.cache_dir.parent / "predictions"
    return sorted(path.name.removeprefix(run.run_id) for path in folder.glob("*"))


@pytest.mark.usefixtures("no_java")
def test_a_run_generates_dev_outputs_by_epoch_and_test_outputs_at_the_last_and_the_best(
    request_run, store, monkeypatch
):
    from layertune.evaluation import evaluate

    real, bleu = evaluate.score_outputs, iter([0.4, 0.3, 0.2])  # dev, dev, and what the test split gets
    monkeypatch.setattr(
        evaluate,
        "score_outputs",
        lambda outputs, split, **k: real(outputs, split, **k) | {"bleu": next(bleu, 0.1)},
    )
    run = request_run("method=low_k", "method.k=2")
    record = execute(run, store)
    assert record == read_record(store.path(run)) and record.status == "done"
    assert record.checks.failures() == [] and record.checks.beats_majority is None
    assert record.model.trainable["head"] == 0 and record.model.lowest_trained_layer >= 1

    for entry in record.training.history:
        assert set(entry["metrics"]) == {"e2e_validation"}
        assert set(entry["metrics"]["e2e_validation"]) == OFFICIAL | FORCED | {"meteor_reason"} | extra(entry)
    last, best = record.metrics.last, record.metrics.best
    assert list(last) == ["e2e", "e2e_validation"] and list(best) == ["e2e", "e2e_validation", "epoch"]
    assert (
        best["epoch"] == 1 and best["e2e_validation"]["bleu"] == 0.4 and last["e2e_validation"]["bleu"] == 0.3
    )
    assert last["e2e"]["bleu"] == 0.2 and best["e2e"]["bleu"] == 0.1
    for scores in (last["e2e"], best["e2e"]):
        assert set(scores) >= OFFICIAL | FORCED | SECONDARY
        assert scores["meteor"] is None and scores["meteor_reason"] == "no Java here"
    assert last["e2e"]["loss"] < best["e2e"]["loss"]  # the weights of another epoch

    assert predictions(run) == ["-test-epoch1.jsonl", "-test-epoch2.jsonl"]
    outputs, references = texts.read_predictions(
        run.cache_dir.parent / "predictions" / f"{run.run_id}-test-epoch2.jsonl"
    )
    assert len(outputs) == 6 and {len(group) for group in references} == {2, 3}
    again = scorer.score(outputs, references)
    for name in ("nist", "rouge_l", "cider"):
        assert again[name] == last["e2e"][name]
    assert record.metrics.outputs == {
        f"{run.run_id}-test-epoch{epoch}.jsonl": hashlib.sha256(
            (run.cache_dir.parent / "predictions" / f"{run.run_id}-test-epoch{epoch}.jsonl").read_bytes()
        ).hexdigest()
        for epoch in (1, 2)
    }


def extra(entry):
    """The scorer says so where it takes its own tokens in place of Java's."""
    return set(entry["metrics"]["e2e_validation"]) & {"tokenizer_reason"}


@pytest.mark.usefixtures("no_java")
def test_outputs_at_the_end_only_leave_no_best_epoch(request_run, store):
    run = request_run("method=full", "eval_generation=last")
    record = execute(run, store)
    assert record.metrics.best is None and json.loads(record.to_json())["metrics"]["best"] is None
    assert [set(entry["metrics"]["e2e_validation"]) for entry in record.training.history] == [FORCED] * 2
    assert set(record.metrics.last["e2e"]) >= OFFICIAL | FORCED | SECONDARY
    assert predictions(run) == ["-test-epoch2.jsonl"]
    assert list(record.metrics.outputs) == [f"{run.run_id}-test-epoch2.jsonl"]
    assert record.data.counts == {"train": 15, "e2e_validation": 15, "e2e": 15}
    assert record.run_id == request_run("method=full").run_id  # the same run, with less to show


@pytest.mark.usefixtures("no_java")
def test_at_the_last_epoch_that_is_the_best_the_test_split_is_read_once(request_run, store, monkeypatch):
    from layertune.evaluation import evaluate

    read = []
    real = evaluate.generate
    monkeypatch.setattr(
        evaluate,
        "generate",
        lambda model, split, *rest: read.append(split.split) or real(model, split, *rest),
    )
    record = execute(request_run("method=top_k", "method.k=1", "train.epochs=1"), store)
    assert read == ["validation", "test"]
    assert record.metrics.best["e2e"] == record.metrics.last["e2e"]


@pytest.mark.usefixtures("no_java")
def test_a_search_is_scored_on_held_out_meanings(request_run, store):
    record = execute(request_run("method=full", "protocol=search", "train.epochs=1"), store)
    assert set(record.metrics.last) == {"e2e"} and "bleu" in record.metrics.last["e2e"]
    last = execute(
        request_run("method=full", "protocol=search", "train.epochs=1", "eval_generation=last", "seed=1"),
        store,
    )
    assert "bleu" in last.metrics.last["e2e"] and last.metrics.best is None


@pytest.mark.usefixtures("no_java")
def test_training_lowers_the_loss_on_unseen_references(request_run, store):
    options = ("method=full", "eval_generation=last", "train.epochs=4", "train.learning_rate=1e-2")
    losses = [
        entry["metrics"]["e2e_validation"]["loss"]
        for entry in execute(request_run(*options), store).training.history
    ]
    assert losses[-1] < losses[0] - 1.0


def test_layers_are_scored_on_the_whole_text_or_on_the_prompt(request_run, store):
    found = {
        text: execute(request_run("method=low_k", "stage=score", f"task.score_text={text}"), store).selection
        for text in ("full", "prompt")
    }
    assert found["full"].scores != found["prompt"].scores
    assert found["full"].examples == found["prompt"].examples == 15
    few = execute(request_run("method=low_k", "stage=score", "scoring.examples=4"), store).selection
    assert few.examples == 4
    with pytest.raises(ConfigError, match="score_text=prompt leaves no reference"):
        request_run("method=grad_norm_k", "task.score_text=prompt")


def test_an_empty_line_ends_the_outputs_of_lora_s_settings_alone():
    decoding = compose_run("model=gpt2", "task=e2e_lora", "method=lora").task.decoding
    assert (decoding.stop, decoding.no_repeat_ngram) == ("\n\n", 4)
    assert compose_run("model=gpt2", "task=e2e", "method=lora").task.decoding.stop == ""


def test_wrong_requests_end_before_any_work(request_run):
    for override, words in (
        ("model=tiny_bert", "is an encoder"),
        ("task.decoding.num_beams=0", "task.decoding.num_beams=0"),
        ("task.decoding.no_repeat_ngram=-1", "from 0 to"),
        ("task.max_length=510", "together longer than the 512 positions"),
        ("task.format=json", "code | lora"),
        ("eval_generation=never", "every | last"),
    ):
        with pytest.raises(ConfigError, match=words.replace("|", r"\|")):
            request_run("method=full", override)


@pytest.mark.slow
def test_a_run_has_all_five_metrics_of_the_challenge(request_run, store):
    record = execute(request_run("method=full", "train.epochs=1", "eval_generation=last"), store)
    scores = record.metrics.last["e2e"]
    assert all(isinstance(scores[name], float) for name in OFFICIAL) and "meteor_reason" not in scores
