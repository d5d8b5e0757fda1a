"""A tokenizer without its vocabulary is refused wherever it enters, and all is read by one function."""

from __future__ import annotations

import json
import re

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoModelForSequenceClassification, BertConfig, PreTrainedTokenizerFast

import layertune
from layertune.errors import ConfigError, ModelError

TEXTS, LABELS = ["a good film", "a bad film"] * 4, [1, 0] * 4
ABOUT = {
    **{"format": 1, "form": "transformers", "kind": "classification", "labels": ["a", "b"]},
    **{"columns": ["text"], "max_length": 16, "segment_ids": "standard", "attention": "eager"},
}


@pytest.fixture(scope="module")
def half():
    """What the library makes of a folder whose vocabulary is missing."""
    known = models.WordLevel({"[UNK]": 0, "[PAD]": 1}, unk_token="[UNK]")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(known), unk_token="[UNK]", pad_token="[PAD]")


@pytest.fixture(scope="module")
def model():
    sizes = {"vocab_size": 100, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    return AutoModelForSequenceClassification.from_config(BertConfig(num_hidden_layers=3, **sizes))


@pytest.fixture(scope="module")
def folder(model, half, tmp_path_factory):
    path = tmp_path_factory.mktemp("half")
    model.save_pretrained(path)
    half.save_pretrained(path)
    (path / "layertune.json").write_text(json.dumps(ABOUT))
    return path


@pytest.mark.parametrize("door", ["score_layers", "fine_tune", "LayerTuneClassifier", "load"])
def test_half_a_tokenizer_is_refused_at_every_door(door, model, half, folder):
    enter = {
        "score_layers": lambda: layertune.score_layers(model, (half, TEXTS)),
        "fine_tune": lambda: layertune.fine_tune(model, half, (TEXTS, LABELS), None, k=1),
        "LayerTuneClassifier": lambda: layertune.LayerTuneClassifier(str(folder), k=1).fit(TEXTS, LABELS),
        "load": lambda: layertune.load(folder, device="cpu"),
    }
    with pytest.raises(ModelError, match="vocabulary"):
        enter[door]()


def test_a_folder_with_code_of_its_own_runs_none_of_it(folder):
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    settings |= {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": ["mine.Mine", None]}}
    (folder / "mine.py").write_text("raise SystemExit('run')")
    try:
        file.write_text(json.dumps(settings))
        for enter in (
            lambda: layertune.LayerTuneClassifier(str(folder), k=1).fit(TEXTS, LABELS),
            lambda: layertune.load(folder, device="cpu"),
        ):
            with pytest.raises(ConfigError):
                enter()
    finally:
        file.write_text(json.dumps({k: v for k, v in settings.items() if k != "auto_map"}))


def test_nothing_is_read_by_the_library_but_through_one_function(repo):
    """The card of a model shows readers the call; peft puts an adapter on what was read, from a folder."""
    calls = {
        (path.name, call)
        for path in (repo / "src" / "layertune").rglob("*.py")
        for call in re.findall(r"[\w}]+\.from_pretrained\(", path.read_text())
        if path.name != "card.py"
    }
    assert calls == {("loading.py", "kind.from_pretrained("), ("load.py", "PeftModel.from_pretrained(")}
