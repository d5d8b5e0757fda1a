"""From a script: fine_tune in place, a classifier with scikit-learn's habits, a callback of the Trainer."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tiny_models import ENCODERS, EXTRA, SMALL
from tiny_runs import weights

from layertune import LayerSelection, LayerTuneClassifier, fine_tune
from layertune.config import ModelSpec
from layertune.errors import ConfigError
from layertune.models import load_tokenizer

GOOD, BAD = ["great", "best", "good", "fine"], ["bad", "dull", "boring", "slow"]
TEXTS = [
    f"the {word} film, number {i}" for i in range(4) for pair in zip(GOOD, BAD, strict=True) for word in pair
]
LABELS = [1, 0] * (len(TEXTS) // 2)


def model_of(shape, num_labels=2):
    """A random model of four layers with the library's head, and a tokenizer."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    sizes = {**SMALL, **EXTRA.get(shape, {}), "vocab_size": 768, "max_position_embeddings": 80}
    torch.manual_seed(0)
    config = AutoConfig.for_model(shape, **sizes, num_labels=num_labels)
    family = "encoder" if shape in ENCODERS else "decoder"
    spec = ModelSpec(name="tiny", source="random", family=family)
    return AutoModelForSequenceClassification.from_config(config), load_tokenizer(spec)[0]


def changed(model, before):
    return {name for name, value in weights(model).items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("shape", ["bert", "gpt2"])
def test_a_training_that_is_stopped_leaves_the_library_s_own_model(shape, monkeypatch):
    model, tokenizer = model_of(shape)
    steps = iter(range(3))

    def step(*args, **kwargs):
        if next(steps, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(KeyboardInterrupt):
        fine_tune(model, tokenizer, (TEXTS, LABELS), None, k=1, strategy="top_k", epochs=2)
    fresh, _ = model_of(shape)
    fresh.load_state_dict(model.state_dict())
    fresh.config.pad_token_id = model.config.pad_token_id
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    outputs = []
    for one in (model, fresh):
        one.train()
        torch.manual_seed(0)
        outputs.append(one(**inputs, output_hidden_states=True))
    assert torch.equal(outputs[0].logits, outputs[1].logits)
    assert [tuple(state.shape) for state in outputs[0].hidden_states] == [
        tuple(state.shape) for state in outputs[1].hidden_states
    ]


@pytest.mark.parametrize("shape", ["bert", "roberta", "deberta", "gpt2", "llama"])
def test_a_model_is_trained_in_place_in_the_chosen_layers_and_its_head_alone(shape):
    model, tokenizer = model_of(shape)
    before, names = weights(model), list(dict(model.named_parameters()))
    states = torch.random.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    result = fine_tune(model, tokenizer, (TEXTS, LABELS), (TEXTS, LABELS), k=2, epochs=2, learning_rate=3e-3)
    assert torch.equal(states[0], torch.random.get_rng_state()) and states[1] == random.getstate()
    assert states[2] == np.random.get_state()[1].tolist()
    assert list(dict(model.named_parameters())) == names and len(result.layers) == 2
    moved = changed(model, before)
    numbers = {int(part) for name in moved for part in name.split(".") if part.isdigit()}
    assert {number + 1 for number in numbers} == set(result.layers)
    assert any("score" in name or "classifier" in name for name in moved)
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert result.trained_parameters == sum(sizes.values()) and moved <= set(sizes)
    assert set(result.seconds) == {"choosing", "cache", "training"} and len(result.history) == 2
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        answers = model.eval()(**inputs).logits.argmax(1).numpy()
    assert result.metrics["accuracy"] == pytest.approx((answers == np.array(LABELS)).mean())


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_weights_are_trained_and_left_in_full_precision(stored, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model, tokenizer = model_of("bert")
    before = {name: value.float() for name, value in weights(model.to(stored)).items()}
    result = fine_tune(model, tokenizer, (TEXTS, LABELS), (TEXTS, LABELS), k=2, epochs=2, learning_rate=3e-3)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    assert any("pooler" in name for name in changed(model, before))
    model.save_pretrained(tmp_path)
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        answers = again.eval()(**inputs).logits
        assert torch.equal(answers, model.eval()(**inputs).logits)
    right = (answers.argmax(1).numpy() == np.array(LABELS)).mean()
    assert result.metrics["accuracy"] == pytest.approx(right)


def test_labels_may_be_names_and_rows_are_held_out_where_a_share_is_given():
    model, tokenizer = model_of("bert")
    names = [("good", "bad")[label] for label in LABELS]
    result = fine_tune(model, tokenizer, (TEXTS, names), 0.25, layers=[2], epochs=1)
    assert model.config.id2label == {0: "bad", 1: "good"} and result.layers == (2,)
    assert "accuracy" in result.metrics
    model, tokenizer = model_of("bert", num_labels=1)
    result = fine_tune(model, tokenizer, (TEXTS, [0.5 * label for label in LABELS]), 0.25, k=1, epochs=1)
    assert "pearson" in result.metrics
    assert fine_tune(model, tokenizer, (TEXTS, LABELS), None, strategy="full", epochs=1).metrics == {}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"train": (TEXTS, LABELS[1:])}, "one length"),
        ({"train": (TEXTS, ["a", "b", "c", "d"] * 8)}, "num_labels=4"),
        ({"k": 4}, "^k=4 .*between 1 and 3"),
        ({"strategy": "lowk"}, "^strategy=lowk .*Did you mean 'low_k'"),
        ({"epochs": -1}, "^epochs=-1"),
        ({"eval": 2.0}, "between 0 and 1"),
        ({"model": torch.nn.Linear(1, 1)}, "AutoModelForSequenceClassification"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_the_model_stays_as_it_was(options, word):
    model, tokenizer = model_of("bert")
    before = weights(model)
    with pytest.raises(ConfigError, match=word):
        fine_tune(**{"model": model, "tokenizer": tokenizer, "train": (TEXTS, LABELS), **options})
    assert not changed(model, before) and model.base_model.pooler is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base")
    model, tokenizer = model_of("bert")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module", params=[torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def half_folder(tmp_path_factory, request):
    path = tmp_path_factory.mktemp("half")
    model, tokenizer = model_of("bert")
    model.to(request.param).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def test_the_classifier_trains_weights_stored_in_half_precision(half_folder, tmp_path):
    fitted = LayerTuneClassifier(half_folder, k=1, epochs=1).fit(TEXTS, LABELS)
    assert fitted.model_.dtype == torch.float32
    fitted.save_pretrained(str(tmp_path / "kept"))
    again = LayerTuneClassifier(str(tmp_path / "kept"), k=1, epochs=1).fit(TEXTS, LABELS)
    assert again.predict_proba(TEXTS).shape == (32, 2)


def test_the_classifier_has_scikit_learn_s_habits(folder):
    from sklearn.base import clone
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    names = np.array(["no", "yes"])[LABELS]
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    classifier = LayerTuneClassifier(folder, k=1, epochs=2, learning_rate=3e-3)
    pipeline = make_pipeline(lower, clone(classifier))
    scores = cross_val_score(pipeline, TEXTS, names, cv=2)
    assert len(scores) == 2
    shares = pipeline.fit(TEXTS, names).predict_proba(TEXTS)
    fitted = pipeline[-1]
    assert (
        shares.shape == (32, 2) and np.allclose(shares.sum(1), 1) and list(fitted.classes_) == ["no", "yes"]
    )
    assert list(pipeline.predict(TEXTS)) == list(fitted.classes_[shares.argmax(1)])
    again = clone(classifier).fit(TEXTS, names)
    assert np.array_equal(again.predict_proba(TEXTS), shares)
    assert clone(fitted).get_params() == classifier.get_params() and not hasattr(clone(fitted), "model_")


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
def test_a_trainer_trains_the_layers_that_the_callback_chose(folder, tmp_path, stored):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=stored)
    encoded = tokenizer(TEXTS, padding=True)
    data = [{**{key: encoded[key][i] for key in encoded}, "labels": LABELS[i]} for i in range(len(TEXTS))]
    before, selection = weights(model), LayerSelection(k=2, strategy="low_k")
    arguments = TrainingArguments(str(tmp_path), num_train_epochs=1, report_to="none", use_cpu=True)
    Trainer(model, arguments, train_dataset=data, callbacks=[selection]).train()
    moved = changed(model, before)
    numbers = {int(part) + 1 for name in moved for part in name.split(".") if part.isdigit()}
    assert numbers == set(selection.chosen) and len(selection.scores.values) == 4
    assert selection.trained_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
