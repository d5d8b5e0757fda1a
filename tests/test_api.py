from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny_models import EXTRA, SMALL, batch_of
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Trainer,
    TrainingArguments,
)

import layertune
from layertune import freeze_all_but, score_layers, select_layers
from layertune.config import ModelSpec
from layertune.errors import ConfigError, ModelError
from layertune.models import Backbone, ConcatHead, TaskModel
from layertune.models.tiny_tokenizer import tiny_tokenizer
from layertune.scoring import SCORERS

TEXTS = [
    "the film was great fun",
    "a dull and boring plot",
    "funny",
    "the coffee shop near the river is cheap, and the food was not bad at all",
]


def config_of(model_type: str, **changes: object):
    return AutoConfig.for_model(
        model_type, **{**SMALL, **EXTRA.get(model_type, {}), "vocab_size": 768, **changes}
    )


def model_of(kind, model_type: str, **changes: object):
    torch.manual_seed(3)
    return kind.from_config(config_of(model_type, **changes)).eval()


def dictionary_of(batch) -> dict:
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "gpt2", "llama"])
@pytest.mark.parametrize("scorer", ["cosine", "euclidean", "io_cosine", "feature_variance"])
def test_scores_are_those_of_the_library_whatever_stands_on_the_base_model(model_type, scorer):
    whole = model_of(AutoModelForSequenceClassification, model_type, num_labels=3, pad_token_id=1)
    batches = [batch_of([9, 5, 12], seed=1), batch_of([4, 7], seed=2)]
    token = "last" if model_type in ("gpt2", "llama") else "first"
    backbone = Backbone(whole.base_model, token)
    expected = SCORERS[scorer](TaskModel(backbone, ConcatHead(4, 32, 3, 0.3), "classification"), batches)
    for model in (whole, whole.base_model):
        scores = score_layers(model, [dictionary_of(batch) for batch in batches], scorer)
        assert scores.values == expected.values and scores.matrix == expected.matrix


def test_gradient_norm_uses_the_models_own_head_and_loss():
    model = model_of(AutoModelForSequenceClassification, "bert", num_labels=3)
    batch = dictionary_of(batch_of([9, 5, 12]))
    scores = score_layers(model, [batch], "gradient_norm")
    assert all(parameter.grad is None for parameter in model.parameters())
    model(**batch).loss.backward()
    for layer, block in zip(scores.values, model.bert.encoder.layer, strict=True):
        squares = [parameter.grad.double().square().sum() for parameter in block.parameters()]
        assert layer == pytest.approx(float(torch.stack(squares).sum().sqrt()), rel=1e-5)


@pytest.mark.parametrize(("family", "model_type"), [("encoder", "bert"), ("decoder", "gpt2")])
def test_texts_give_the_same_scores_as_batches(family, model_type):
    model, tokenizer = model_of(AutoModel, model_type), tiny_tokenizer(family)
    if tokenizer.pad_token is None:
        batches = [tokenizer([text], return_tensors="pt") for text in TEXTS]
    else:
        loader = DataLoader(TEXTS, batch_size=3)
        batches = (tokenizer(part, return_tensors="pt", padding=True) for part in loader)
    expected = score_layers(model, batches)
    scores = score_layers(model, (tokenizer, TEXTS), batch_size=2)
    assert scores.values == pytest.approx(expected.values, abs=1e-6) and scores.examples == 4
    assert tokenizer.pad_token == ("[PAD]" if family == "encoder" else None)  # the tokenizer is not touched


def test_pairs_of_texts_carry_their_segments():
    model, tokenizer = model_of(AutoModel, "bert"), tiny_tokenizer("encoder")
    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    first, second = (list(side) for side in zip(*pairs, strict=True))
    expected = score_layers(model, [tokenizer(first, second, return_tensors="pt", padding=True)])
    assert score_layers(model, (tokenizer, pairs)).values == pytest.approx(expected.values, abs=1e-6)
    joined = [f"{a} {b}" for a, b in pairs]
    assert score_layers(model, (tokenizer, joined)).values != pytest.approx(expected.values, abs=1e-6)


def test_long_texts_are_cut_to_what_the_model_can_read():
    model, tokenizer = model_of(AutoModel, "roberta"), tiny_tokenizer("encoder")
    assert score_layers(model, (tokenizer, ["the film " * 100])).examples == 1


def test_the_representative_token_and_last_layer_can_be_chosen():
    model = model_of(AutoModel, "gpt2")
    batches = [dictionary_of(batch_of([9, 5, 12]))]
    default = score_layers(model, batches)
    assert default.values == score_layers(model, batches, representative="last").values
    assert default.values != score_layers(model, batches, representative="first").values
    assert default.values != score_layers(model, batches, last_layer="raw").values


def test_selection_knows_the_papers_names_and_the_rules():
    scores = [0.5, 0.9, 0.1, 0.7, 0.3, 0.8]
    assert select_layers(scores, 2, "low_k") == select_layers(scores, 2, "lowest") == (3, 5)
    assert select_layers(scores, 2, "high_k") == select_layers(scores, 2, "highest") == (2, 6)
    assert select_layers(scores, 2, "block_high") == (2, 6)
    assert select_layers(scores, 2, "block_low") == (3, 5)
    assert select_layers(scores, 2, "top_k") == (5, 6)
    assert select_layers(scores, 2, "bottom_k") == (1, 2)
    drawn = [select_layers(scores, 2, "random_k", seed=seed) for seed in range(8)]
    assert drawn == [select_layers(scores, 2, "random", seed=seed) for seed in range(8)]
    assert len(set(drawn)) > 3  # of 15; each seed draws its own
    with pytest.raises(ConfigError, match=r"strategy=best does not exist; known: block_high, "):
        select_layers(scores, 2, "best")
    with pytest.raises(ConfigError, match="Did you mean 'high_k'"):
        select_layers(scores, 2, "hig_k")
    with pytest.raises(ConfigError, match="k=6 is out of range"):
        select_layers(scores, 6)


def test_only_the_named_layers_and_the_head_are_trained():
    model = model_of(AutoModelForSequenceClassification, "bert", num_labels=3)
    trained = freeze_all_but(model, [2, 4])
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(
        name.startswith(("bert.encoder.layer.1.", "bert.encoder.layer.3.", "classifier.")) for name in names
    )
    block = 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32
    assert trained == 2 * block + 3 * 32 + 3
    assert freeze_all_but(model, [1], train_head=False) == block
    assert freeze_all_but(model, [], also=["pooler"]) == 32 * 32 + 32 + 3 * 32 + 3


def test_a_tied_language_model_head_stays_frozen_and_an_untied_one_is_trained():
    block = model_of(AutoModel, "gpt2").h[0]
    size = sum(parameter.numel() for parameter in block.parameters())
    assert freeze_all_but(model_of(AutoModelForCausalLM, "gpt2"), [1]) == size
    untied = model_of(AutoModelForCausalLM, "gpt2", tie_word_embeddings=False)
    assert freeze_all_but(untied, [1]) == size + 768 * 32


def test_an_empty_text_and_a_pair_are_read_as_a_run_reads_them():
    """A decoder's empty text is its end token, a pair two lines; see tests/tasks/test_encode.py."""
    model, tokenizer = model_of(AutoModel, "gpt2"), tiny_tokenizer("decoder")
    given = score_layers(model, (tokenizer, ["", *TEXTS]))
    assert given.values == score_layers(model, (tokenizer, ["<|endoftext|>", *TEXTS])).values
    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    lines = [f"{first}\n{second}" for first, second in pairs]
    assert score_layers(model, (tokenizer, pairs)).values == score_layers(model, (tokenizer, lines)).values


def test_segments_of_pairs_are_left_out_as_runs_leave_them_out():
    model, tokenizer = model_of(AutoModel, "bert"), tiny_tokenizer("encoder")
    pairs = list(zip(TEXTS, reversed(TEXTS), strict=True))
    first, second = (list(side) for side in zip(*pairs, strict=True))
    batch = {**tokenizer(first, second, return_tensors="pt", padding=True)}
    batch["token_type_ids"] = torch.zeros_like(batch["token_type_ids"])
    scores = score_layers(model, (tokenizer, pairs), segment_ids="zeros")
    assert scores.values == pytest.approx(score_layers(model, [batch]).values, abs=1e-6)


def test_batches_of_lists_and_arrays_score_like_tensors():
    model, tokenizer = model_of(AutoModelForSequenceClassification, "bert"), tiny_tokenizer("encoder")
    lists = {**tokenizer(TEXTS, TEXTS[::-1], padding=True), "labels": [0, 1, 0, 1]}
    expected = [{name: torch.tensor(rows) for name, rows in lists.items()}]
    arrays = {name: np.array(rows) for name, rows in lists.items()}
    for scorer in ("cosine", "gradient_norm"):
        for batch in (lists, arrays, {**lists, "attention_mask": np.array(lists["attention_mask"]) > 0}):
            assert score_layers(model, [batch], scorer).values == score_layers(model, expected, scorer).values


def test_what_is_masked_may_be_any_id_and_what_is_not_must_be_known():
    model, batch = model_of(AutoModel, "gpt2"), dictionary_of(batch_of([5, 3]))
    expected = score_layers(model, [batch]).values
    for padding in (768, -100):
        ids = torch.where(batch["attention_mask"].bool(), batch["input_ids"], padding)
        assert score_layers(model, [{**batch, "input_ids": ids}]).values == expected
    with pytest.raises(ConfigError, match="768"):
        score_layers(model, [{"input_ids": torch.tensor([[3, 768]])}])


def test_a_pad_token_without_an_embedding_pads_all_the_same():
    tokenizer = tiny_tokenizer("decoder")
    model = model_of(AutoModel, "gpt2", vocab_size=len(tokenizer))
    expected = score_layers(model, (tokenizer, TEXTS)).values
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == model.config.vocab_size
    assert score_layers(model, (tokenizer, TEXTS)).values == expected
    with pytest.raises(ConfigError, match="another model"):
        score_layers(model, (tokenizer, ["a [PAD]"]))


def test_a_tokenizer_in_python_is_read_like_one_in_rust():
    from transformers import ByT5Tokenizer

    model, tokenizer = model_of(AutoModel, "bert"), ByT5Tokenizer()
    batch = {"input_ids": [[100, 105, 1], [106, 1, 0]], "attention_mask": [[1, 1, 1], [1, 1, 0]]}
    assert score_layers(model, (tokenizer, ["af", "g"])).values == score_layers(model, [batch]).values


def test_weights_that_are_kept_elsewhere_are_scored_and_not_trained():
    from accelerate import cpu_offload

    model, batch = model_of(AutoModelForSequenceClassification, "bert"), dictionary_of(batch_of([5, 3]))
    expected = score_layers(model, [batch])
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert score_layers(model, [batch]).values == expected.values
    with pytest.raises(ConfigError, match="offloaded"):
        freeze_all_but(model, [1])
    with pytest.raises(ConfigError, match="meta"):
        score_layers(model, [{**batch, "labels": [0, 1]}], "gradient_norm")


def test_integer_weights_are_not_trained_and_a_refusal_changes_nothing():
    model = model_of(AutoModelForSequenceClassification, "bert")
    codes = torch.nn.Parameter(torch.zeros(64, 32, dtype=torch.int8), requires_grad=False)
    model.bert.encoder.layer[1].intermediate.codes = codes
    before = [parameter.requires_grad for parameter in model.parameters()]
    with pytest.raises(ConfigError, match="codes"):
        freeze_all_but(model, [2])
    assert before == [parameter.requires_grad for parameter in model.parameters()]
    assert freeze_all_but(model, [1]) > 0
    with pytest.raises(ConfigError, match="int8"):
        score_layers(model, [{"input_ids": [[3, 4]], "labels": [0]}], "gradient_norm")


def test_half_precision_and_a_model_in_training_score_like_the_same_model_at_rest():
    model, batch = model_of(AutoModel, "bert").to(torch.bfloat16), dictionary_of(batch_of([9, 5]))
    expected = score_layers(model, [batch]).values
    assert score_layers(model.train(), [batch]).values == expected and model.training
    exact = model_of(AutoModel, "bert").to(torch.bfloat16).float()
    assert expected == pytest.approx(score_layers(exact, [batch]).values, abs=0.02)


def test_requests_that_cannot_work_are_refused_in_a_sentence():
    model, tokenizer = model_of(AutoModel, "bert"), tiny_tokenizer("encoder")
    left = batch_of([9, 5])
    left = {"input_ids": left.input_ids.flip(1), "attention_mask": left.attention_mask.flip(1)}
    for match, call in {
        "padded on the left": lambda: score_layers(model, [left]),
        "no example": lambda: score_layers(model, []),
        "list of texts is empty": lambda: score_layers(model, (tokenizer, [])),
        "scorer=nothing does not exist; known: angular": lambda: score_layers(model, [left], "nothing"),
        "needs dictionaries with input_ids and got str": lambda: score_layers(model, TEXTS),
        "needs `labels`": lambda: score_layers(
            model, [{"input_ids": torch.ones(1, 3, dtype=int)}], "gradient_norm"
        ),
        "needs labels: give batches": lambda: score_layers(model, (tokenizer, TEXTS), "gradient_norm"),
        "no meaning for scorer=cosine": lambda: score_layers(model, (tokenizer, TEXTS), tokens="all"),
        "representative=middle": lambda: score_layers(model, (tokenizer, TEXTS), representative="middle"),
        "no layer 5: layers are numbered from 1 to 4": lambda: freeze_all_but(model, [1, 5]),
        "no layer 0": lambda: freeze_all_but(model, [0]),
        "also=nothing": lambda: freeze_all_but(model, [1], also=["nothing"]),
        "nothing is left to train": lambda: freeze_all_but(model, []),
        "text 1 is": lambda: score_layers(model, (tokenizer, [["a", "great", "film"], ["b", "c", "d"]])),
        "text 2 is": lambda: score_layers(model, (tokenizer, ["a film", ("a", "film")])),
        "row 2 has no text": lambda: score_layers(model, (tokenizer, ["a film", None])),
        "half a character": lambda: score_layers(model, (tokenizer, ["a film", "\ud800"])),
        "the texts are a dict": lambda: score_layers(model, (tokenizer, {"text": TEXTS})),
        "max_length=None": lambda: score_layers(model, (tokenizer, TEXTS), max_length=None),
        "begins with a tokenizer": lambda: score_layers(model, (str, TEXTS)),
        "max_length=2": lambda: score_layers(model, (tokenizer, TEXTS), max_length=2),
        "batch_size=0": lambda: score_layers(model, (tokenizer, TEXTS), batch_size=0),
        "got int": lambda: score_layers(model, 3),
        "last_layer=middle": lambda: score_layers(model, [left], last_layer="middle"),
        "unequal length": lambda: score_layers(model, [{"input_ids": [[1, 2], [1]]}]),
        "gaps": lambda: score_layers(model, [{"input_ids": [[1, 2, 3]], "attention_mask": [[1, 0, 1]]}]),
        "position_ids": lambda: score_layers(model, [{"input_ids": [[1, 2]], "position_ids": [[0, 1]]}]),
        "integers": lambda: score_layers(model, [{"input_ids": [1, 2]}]),
        "40 positions": lambda: score_layers(model, [{"input_ids": [[1] * 41]}]),
        "has one": lambda: score_layers(model_of(AutoModel, "bert", num_hidden_layers=1), (tokenizer, TEXTS)),
        "head": lambda: score_layers(model, [{"input_ids": [[1, 2]], "labels": [0]}], "gradient_norm"),
    }.items():
        with pytest.raises(ConfigError, match=match):
            call()
    with pytest.raises(ModelError, match="got a Linear: unwrap it first"):
        score_layers(torch.nn.Linear(2, 2), (tokenizer, TEXTS))
    with pytest.raises(ModelError, match="not a single stack of layers"):
        freeze_all_but(AutoModel.from_config(AutoConfig.for_model("t5", d_model=8, num_layers=1)), [1])


def test_a_plain_trainer_script_trains_the_selected_layers_and_nothing_else(tmp_path):
    tokenizer = tiny_tokenizer("encoder")
    model = model_of(AutoModelForSequenceClassification, "bert", num_labels=2)

    scores = score_layers(model, (tokenizer, TEXTS))
    layers = select_layers(scores, k=2, strategy="low_k")
    trained = freeze_all_but(model, layers)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = [{**tokenizer(text), "labels": number % 2} for number, text in enumerate(TEXTS)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()

    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    expected = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for layer in layers:
        assert any(name.startswith(f"bert.encoder.layer.{layer - 1}.") for name in changed)
    assert "classifier.weight" in changed and changed <= expected
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    # a key's bias moves all scores of a query alike, so its gradient is zero
    assert all("key.bias" in name for name in expected - changed)


def test_importing_the_package_imports_nothing_heavy():
    script = (
        "import sys, layertune; assert 'torch' not in sys.modules and 'transformers' not in sys.modules; "
        "layertune.select_layers; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute nothing"):
        _ = layertune.nothing
    training = {"fine_tune", "LayerTuneClassifier", "LayerSelection", "load"}
    assert set(layertune.__all__) == {"score_layers", "select_layers", "freeze_all_but"} | training


def test_the_same_scores_come_out_of_a_configured_model():
    """The public function and the pipeline's model agree on one set of weights."""
    from layertune.models import load_model

    spec = ModelSpec(
        name="tiny", source="random", random_config={"model_type": "bert", **SMALL, "vocab_size": 768}
    )
    batch = batch_of([9, 5, 12])
    model = load_model(spec)
    expected = SCORERS["cosine"](
        TaskModel(Backbone(model, "first"), ConcatHead(4, 32, 3, 0.3), "classification"), [batch]
    )
    assert score_layers(model, [dictionary_of(batch)]).values == expected.values
