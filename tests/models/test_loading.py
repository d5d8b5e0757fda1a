from __future__ import annotations

import dataclasses
import json
import re
import shutil
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from layertune.config import ModelSpec
from layertune.config.build import build_dataclass
from layertune.config.weights import weights_files, weights_folder
from layertune.errors import ConfigError, ModelError
from layertune.models import Backbone, load_model, load_tokenizer

MODELS = [
    *("bert", "bert_cased", "roberta", "deberta", "deberta_v3", "electra", "gpt2", "gemma2_2b", "tinyllama"),
    *("gte_small", "minilm_l6", "mpnet", "smollm2"),
]


def spec_of(repo, name: str, **changes: object) -> ModelSpec:
    values = yaml.safe_load((repo / "configs" / "model" / f"{name}.yaml").read_text())
    return build_dataclass(ModelSpec, {**values, **changes}, name)


@pytest.fixture
def saved_bert(tmp_path, repo):
    """A folder with a random 4-layer BERT and its tokenizer, as save_pretrained writes it."""
    spec = spec_of(repo, "tiny_bert")
    load_model(spec).save_pretrained(tmp_path)
    load_tokenizer(spec)[0].save_pretrained(tmp_path)
    return tmp_path


def test_every_model_file_names_itself_and_composes(repo):
    names = sorted(path.stem for path in (repo / "configs" / "model").glob("*.yaml"))
    assert names == sorted([*MODELS, "tiny_bert", "tiny_gpt2", "own"])
    for name in sorted({*names} - {"own"}):  # which is the reader's
        spec = spec_of(repo, name)
        assert spec.name == name and spec.title and spec.num_layers > 0 and spec.max_positions
        assert spec.source in ("random",) or ":" in spec.source or len(spec.revision) == 40
        text = (repo / "configs" / "model" / f"{name}.yaml").read_text()
        assert text.startswith("# ") and f"python run.py model={name}" in text.replace("&& ", "")


def test_random_weights_are_the_same_every_time_and_leave_the_global_generator_alone(repo):
    spec = spec_of(repo, "tiny_gpt2")
    torch.manual_seed(1)
    first = load_model(spec).state_dict()
    drawn = torch.rand(3)
    torch.manual_seed(2)
    second = load_model(spec).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))


@pytest.mark.parametrize("name", ["tiny_bert", "tiny_gpt2"])
def test_tiny_tokenizers_fit_their_models(repo, name):
    spec = spec_of(repo, name)
    tokenizer, key = load_tokenizer(spec)
    assert len(tokenizer) <= spec.random_config["vocab_size"]
    assert load_tokenizer(spec)[1] == key and len(key) == 64
    assert tokenizer.pad_token_id is not None
    assert load_tokenizer(spec_of(repo, "tiny_bert"))[1] != load_tokenizer(spec_of(repo, "tiny_gpt2"))[1]


def test_the_tiny_encoder_writes_pairs_as_bert_does(repo):
    tokenizer, _ = load_tokenizer(spec_of(repo, "tiny_bert"))
    encoded = tokenizer("The film was Great", "xy?")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"]) == (
        ["[CLS]", "the", "film", "was", "great", "[SEP]", "x", "##y", "?", "[SEP]"]
    )
    assert encoded["token_type_ids"] == [0] * 6 + [1] * 4


def test_the_tiny_decoder_loses_nothing_and_pads_with_its_end_of_text_token(repo):
    tokenizer, _ = load_tokenizer(spec_of(repo, "tiny_gpt2"))
    text = "name[Zzyx], food[good]: Café «the» film was great\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer(" the film was great")["input_ids"]) == 4
    assert tokenizer.pad_token_id == tokenizer.eos_token_id and tokenizer.cls_token_id is None
    assert load_model(spec_of(repo, "tiny_gpt2"), causal_lm=True).config.pad_token_id is not None


def test_a_local_folder_gives_the_saved_weights_in_fp32(saved_bert, repo):
    spec = spec_of(repo, "tiny_bert", path=str(saved_bert))
    loaded, original = load_model(spec), load_model(spec_of(repo, "tiny_bert"))
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in original.state_dict().items())
    half = original.to(torch.bfloat16)
    half.save_pretrained(saved_bert)
    assert {parameter.dtype for parameter in load_model(spec).parameters()} == {torch.float32}
    assert load_tokenizer(spec)[1] == load_tokenizer(spec_of(repo, "tiny_bert"))[1]


def test_stored_truncation_and_padding_do_not_survive_loading(saved_bert, repo):
    spec = spec_of(repo, "tiny_bert", path=str(saved_bert))
    tokenizer, key = load_tokenizer(spec)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=20)
    tokenizer.save_pretrained(saved_bert)
    again, same = load_tokenizer(spec)
    assert same == key
    assert len(again("the film was great and funny")["input_ids"]) == 8


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("truncation_side", "left"),
        ("model_input_names", ["input_ids", "attention_mask"]),
        ("split_special_tokens", True),
        ("sep_token", "[MASK]"),
    ],
)
def test_what_decides_the_ids_beside_the_vocabulary_is_in_the_key_of_a_tokenizer(
    saved_bert, repo, setting, value
):
    spec = spec_of(repo, "tiny_bert", path=str(saved_bert))
    before = load_tokenizer(spec)[1]
    file = saved_bert / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {setting: value}))
    tokenizer, key = load_tokenizer(spec)
    assert getattr(tokenizer, setting) == value
    assert key != before


def test_a_tokenizer_in_python_loads_and_its_key_is_what_it_knows(saved_bert, repo):
    from transformers import ByT5Tokenizer

    keys = []
    for tokens in ([], ["<a>"], []):
        for file in saved_bert.glob("token*"):
            file.unlink()
        tokenizer = ByT5Tokenizer()
        tokenizer.add_tokens(tokens)
        tokenizer.save_pretrained(saved_bert)
        loaded, key = load_tokenizer(spec_of(repo, "tiny_bert", path=str(saved_bert)))
        assert loaded("af")["input_ids"] == [100, 105, 1]
        keys.append(key)
    assert keys[0] == keys[2] != keys[1]


def test_the_settings_of_a_tokenizer_in_python_are_in_its_key_and_its_place_is_not(saved_bert, repo):
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    for file in saved_bert.glob("token*"):
        file.unlink()
    words = (
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "The",
        "film",
        *"abcdefghijklmnopqrstuvwxyz",
    )
    (saved_bert / "vocab.txt").write_text("\n".join(words) + "\n")
    config = saved_bert / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": len(words)}))
    keys = []
    for lower, ids in ((True, [2, 5, 7, 3]), (False, [2, 6, 7, 3])):
        BertTokenizerLegacy(saved_bert / "vocab.txt", do_lower_case=lower).save_pretrained(saved_bert)
        elsewhere = saved_bert / f"copy-{lower}"
        shutil.copytree(saved_bert, elsewhere, ignore=shutil.ignore_patterns("copy-*"))
        for folder in (saved_bert, elsewhere):
            tokenizer, key = load_tokenizer(spec_of(repo, "tiny_bert", path=str(folder)))
            assert not tokenizer.is_fast and tokenizer("The film")["input_ids"] == ids
            keys.append(key)
    assert keys[0] == keys[1] != keys[2] == keys[3]


def test_a_pad_token_without_an_embedding_gives_way_to_the_end_token(tmp_path, repo):
    spec = spec_of(repo, "tiny_gpt2")
    load_model(spec).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(spec)[0]
    tokenizer.add_tokens([f"<{n}>" for n in range(len(tokenizer), spec.random_config["vocab_size"])])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id >= spec.random_config["vocab_size"]
    tokenizer.save_pretrained(tmp_path)
    loaded, _ = load_tokenizer(spec_of(repo, "tiny_gpt2", path=str(tmp_path)))
    assert loaded.pad_token_id == loaded.eos_token_id


def test_what_is_no_single_stack_of_layers_is_refused_before_its_weights_are_read(tmp_path, repo):
    for model_type in ("t5", "gemma3", "encoder-decoder"):
        config = {"model_type": model_type} | ({"is_encoder_decoder": True} if "-" in model_type else {})
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes(b"")
        with pytest.raises(ModelError):
            load_model(spec_of(repo, "tiny_bert", path=str(tmp_path)))
    with pytest.raises(ModelError, match="single stack"):
        load_model(spec_of(repo, "tiny_bert", random_config={"model_type": "t5", "d_model": 8}))


def test_a_checkpoint_with_a_head_loads_into_the_headless_model(tmp_path, repo):
    spec = spec_of(repo, "tiny_bert", path=str(tmp_path))
    whole = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**spec.random_config))
    whole.save_pretrained(tmp_path)
    loaded = load_model(spec)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, whole.bert.state_dict()[name]), name


def test_a_missing_pooler_is_no_error_and_missing_layers_are(saved_bert, repo):
    assert load_model(spec_of(repo, "tiny_bert", path=str(saved_bert), pooler=True)).pooler is not None
    shallow = AutoModel.from_pretrained(saved_bert)
    shallow.encoder.layer = shallow.encoder.layer[:3]
    config = (saved_bert / "config.json").read_text()
    shallow.save_pretrained(saved_bert)
    (saved_bert / "config.json").write_text(config)
    with pytest.raises(ModelError, match=r"16 .*encoder\.layer\.3\."):
        load_model(spec_of(repo, "tiny_bert", path=str(saved_bert)))


def test_a_wrong_number_of_layers_is_an_error(repo):
    with pytest.raises(ModelError, match=r"4 layers .*num_layers=5"):
        load_model(spec_of(repo, "tiny_bert", num_layers=5))


def test_a_local_folder_that_is_missing_or_incomplete_is_named(tmp_path, repo):
    with pytest.raises(ConfigError, match=r"model\.path=/nowhere/x .*folder"):
        weights_folder(spec_of(repo, "bert", path="/nowhere/x"))
    with pytest.raises(ConfigError, match=rf"{tmp_path} .*config\.json"):
        weights_folder(spec_of(repo, "bert", path=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"weights .*model\.safetensors"):
        weights_folder(spec_of(repo, "bert", path=str(tmp_path)))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert weights_folder(spec_of(repo, "bert", path=str(tmp_path))) == tmp_path


def test_an_unreadable_folder_is_one_sentence(tmp_path, repo):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ModelError, match=f"configuration .*model=bert .*{tmp_path}"):
        load_model(spec_of(repo, "bert", path=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=r"weights .*model=bert"):
        load_model(spec_of(repo, "bert", path=str(tmp_path)))


def test_weights_files_are_those_that_decide_the_result(tmp_path, repo):
    for name in ("config.json", "tokenizer.json", "README.md", "model.safetensors", "pytorch_model.bin"):
        (tmp_path / name).write_text("{}")
    assert [p.name for p in weights_files(tmp_path)] == ["config.json", "model.safetensors", "tokenizer.json"]
    (tmp_path / "model.safetensors").unlink()
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        '{"weight_map": {"b": "two.safetensors", "a": "one.safetensors", "c": "one.safetensors"}}'
    )
    for shard in ("one.safetensors", "model-00001-of-00002.safetensors"):
        (tmp_path / shard).write_text("x")
    with pytest.raises(ConfigError, match=r"two\.safetensors"):
        weights_files(tmp_path)
    (tmp_path / "two.safetensors").write_text("x")
    assert [p.name for p in weights_files(tmp_path)] == [
        "config.json",
        "model.safetensors.index.json",
        "one.safetensors",
        "tokenizer.json",
        "two.safetensors",
    ]
    (tmp_path / "config.json").write_text('{"transformers_weights": "own.safetensors"}')
    with pytest.raises(ConfigError, match=r"own\.safetensors"):
        weights_folder(spec_of(repo, "bert", path=str(tmp_path)))
    (tmp_path / "own.safetensors").write_text("x")
    names = [path.name for path in weights_files(tmp_path)]
    assert names == ["config.json", "own.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, '{"weight_map": {}}', '{"weight_map": 1}'])
def test_an_index_of_shards_that_names_none_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ConfigError, match="index"):
        weights_files(tmp_path)


def test_a_folder_with_an_adapter_is_refused(saved_bert, repo):
    (saved_bert / "adapter_config.json").write_text('{"base_model_name_or_path": "another"}')
    with pytest.raises(ConfigError, match="merge"):
        weights_folder(spec_of(repo, "tiny_bert", path=str(saved_bert)))


def test_every_file_that_a_tokenizer_of_the_library_reads_is_among_the_weights_files(tmp_path):
    sources = Path(transformers.__file__).parent.glob("models/*/tokenization_*.py")
    tables = (re.findall(r"^VOCAB_FILES_NAMES = (\{.*?\})", s.read_text(), re.M | re.S) for s in sources)
    names = {name for table in chain.from_iterable(tables) for name in re.findall(r':\s*"([^"]+)"', table)}
    assert {"vocab.txt", "merges.txt", "spiece.model", "source.spm"} < names
    names |= {"tokenizer_config.json", "tokenizer.4.0.0.json", "special_tokens_map.json", "added_tokens.json"}
    for name in ("config.json", "model.safetensors", *names):
        (tmp_path / name).write_text("{}")
    assert names <= {path.name for path in weights_files(tmp_path)}


def test_package_weights_are_found_without_importing_the_package(tmp_path, repo, monkeypatch):
    package = tmp_path / "some_weights"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    for name in ("config.json", "model.safetensors"):
        (package / "model" / name).write_text("{}")
    monkeypatch.syspath_prepend(tmp_path)
    spec = spec_of(repo, "minilm_l6", source="package:some_weights:model")
    assert weights_folder(spec) == package / "model"
    assert "some_weights" not in sys.modules
    with pytest.raises(ConfigError, match=r"some_weights .*other"):
        weights_folder(dataclasses.replace(spec, source="package:some_weights:other"))
    with pytest.raises(ConfigError, match=r"no_such_weights.*layertune\[demo"):
        weights_folder(dataclasses.replace(spec, source="package:no_such_weights:model"))
    with pytest.raises(ConfigError, match="malformed"):
        weights_folder(dataclasses.replace(spec, source="package:some_weights"))


def test_an_unreachable_hub_names_three_ways_out_at_once(repo):
    start = time.perf_counter()
    for load in (load_model, load_tokenizer):
        with pytest.raises(ModelError) as caught:
            load(spec_of(repo, "roberta"))
        message = str(caught.value)
        assert "FacebookAI/roberta-base" in message and "\n" not in message
        assert all(way in message for way in ("HF_HOME", "model.path=<folder>", "model=minilm_l6"))
    assert time.perf_counter() - start < 20  # the library's own retries take 47 seconds per file


def test_attention_is_sdpa_where_the_architecture_has_it_and_can_be_chosen(repo):
    assert load_model(spec_of(repo, "tiny_bert")).config._attn_implementation == "sdpa"
    assert load_model(spec_of(repo, "tiny_bert", attention="eager")).config._attn_implementation == "eager"
    deberta = {**spec_of(repo, "tiny_bert").random_config, "model_type": "deberta"}
    assert (
        load_model(spec_of(repo, "tiny_bert", random_config=deberta)).config._attn_implementation == "eager"
    )


def test_the_installed_minilm_has_six_layers(repo):
    spec = spec_of(repo, "minilm_l6")
    try:
        weights_folder(spec)
    except ConfigError as missing:
        pytest.skip(str(missing))
    backbone = Backbone(load_model(spec), "first")
    assert backbone.num_layers == 6 and backbone.hidden_size == 384
    assert load_tokenizer(spec)[0]("hello")["input_ids"] == [101, 7592, 102]
