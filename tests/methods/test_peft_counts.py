"""How many numbers each method adds, on the real configurations: worked out by hand (12 layers of 768)."""

from __future__ import annotations

import pytest
from added_cases import added, insert, real_language_model, real_model

from layertune.methods import count

HEAD = 7_080_194  # concat of 12 x 768 -> 768 -> 2
COUNTS = [
    ("lora", {"r": 8}, 294_912),  # 12 layers, query and value, r numbers per input and per output: 36,864 r
    ("lora", {}, 589_824),
    ("lora", {"r": 32}, 1_179_648),
    ("lora", {"r": 64}, 2_359_296),
    ("adapters", {"train_norms": False}, 3_559_680),  # 24 (2 · 768 · 96 + 96 + 768)
    ("adapters", {"bottleneck": 64, "train_norms": False}, 2_379_264),
    ("prefix", {}, 368_640),  # 20 · 2 · 12 · 768
    ("prefix", {"length": 5}, 92_160),
    ("ia3", {}, 55_296),  # 12 (768 + 768 + 3,072)
    ("ia3", {"targets": "all"}, 64_512),  # the library's: BERT 12 (3 · 768 + 3,072), GPT-2 12 (2,304 + 3,072)
]


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
@pytest.mark.parametrize(("name", "options", "numbers"), COUNTS)
def test_counts_on_the_real_configurations_without_and_with_the_head(model_type, name, options, numbers):
    model = real_model(model_type)
    prep = insert(name, model, **options)
    assert count(added(model, prep).values()) == numbers
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert count(trainable) == prep.expected_trainable == numbers + HEAD


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_adapters_train_the_norms_of_the_blocks_too(model_type):
    model = real_model(model_type)
    prep = insert("adapters", model)
    assert count(added(model, prep).values()) == 3_559_680
    assert prep.expected_trainable == 3_596_544 + HEAD  # 24 norms of 768 gains and 768 shifts


@pytest.mark.parametrize(
    ("name", "numbers"), [("lora", 589_824), ("adapters", 3_596_544), ("prefix", 368_640), ("ia3", 55_296)]
)
def test_generation_trains_the_added_alone_and_leaves_the_tied_head_frozen(name, numbers):
    model = real_language_model("gpt2")
    prep = insert(name, model)
    assert prep.expected_trainable == numbers
    assert not model.head.weight.requires_grad
    assert count(model.parameters()) == 124_439_808 + count(added(model, prep).values())


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_a_reparameterised_prefix_trains_more_than_is_kept(model_type):
    model = real_model(model_type)
    prep = insert("prefix", model, mlp=True)
    # Embedding 20 · 768, Linear 768 -> 512, Linear 512 -> 18,432
    assert count(added(model, prep).values()) == 15_360 + 393_728 + 9_455_616 == 9_864_704
    assert prep.facts == {"kept_parameters": 368_640}


def test_grouped_query_attention_has_smaller_values_and_prefixes():
    # TinyLlama: 22 layers of 2,048, 32 query heads, 4 heads of 64 for keys and values.
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22}
    heads = {"num_attention_heads": 32, "num_key_value_heads": 4}
    expected = {
        "lora": 22 * 16 * ((2048 + 2048) + (2048 + 256)),
        "prefix": 20 * 2 * 22 * 256,
        "ia3": 22 * (256 + 256 + 5632),
        "adapters": 44 * (2 * 2048 * 96 + 96 + 2048),
    }
    for name, numbers in expected.items():
        model = real_model("llama", **sizes, **heads)
        assert count(added(model, insert(name, model)).values()) == numbers, name


@pytest.mark.parametrize("name", ["lora", "ia3", "adapters", "prefix"])
def test_nothing_but_the_added_parameters_changes_its_name(name):
    before, model = (real_model("gpt2") for _ in range(2))
    names = dict(before.named_parameters()).keys()
    prep = insert(name, model)
    kept = {n.replace(".base_layer", "") for n, _ in model.named_parameters()} - set(prep.added)
    assert kept == names
