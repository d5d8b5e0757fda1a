"""What each method trains: counted by hand, chosen by the right rule, from the right random state."""

from __future__ import annotations

import dataclasses
import random
import sys
from types import ModuleType

import pytest
import torch
from added_cases import real_language_model
from tiny_runs import compose_tiny, prepare

from layertune.config.groups import group_file, group_names
from layertune.errors import ConfigError
from layertune.methods import METHODS, Full, SelectedLayers, build_method, count, optimised, train_only
from layertune.methods.base import Method
from layertune.models import PooledHead
from layertune.pipeline import execute
from layertune.records import Store
from layertune.scoring import LayerScores
from layertune.training.optim import build_optimizer
from layertune.training.proof import parameter_facts, trained_layers

# Tiny BERT, width 32, inner width 64: four square projections, two of the inner width, two LayerNorms.
BERT_LAYER = 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 2 * (32 + 32)
# Tiny GPT-2, width 32, inner width 128: query-key-value, projection, two of the inner width, two LayerNorms.
GPT2_LAYER = (32 * 96 + 96) + (32 * 32 + 32) + (32 * 128 + 128) + (128 * 32 + 32) + 2 * (32 + 32)
HEAD = (4 * 32 * 32 + 32) + (32 * 2 + 2)  # concat of 4 layers -> 32 -> 2 classes
POOLED_HEAD = (32 * 32 + 32) + (32 * 2 + 2)  # the last layer alone

SELECTING = [name for name in group_names("method") if (group_file("method", name) or {}).get("selector")]


def trainable_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("model", "layer"), [("tiny_bert", BERT_LAYER), ("tiny_gpt2", GPT2_LAYER)])
@pytest.mark.parametrize("method", SELECTING)
def test_a_selecting_method_trains_its_k_layers_and_the_head_alone(prepared, model, layer, method):
    case = prepared(f"model={model}", f"method={method}", "method.k=2")
    layers = case.prep.layers
    assert len(layers) == 2 and layers == tuple(sorted(set(layers))) and set(layers) <= {1, 2, 3, 4}
    expected = {f"head.{name}" for name, _ in case.model.head.named_parameters()}
    path = f"backbone.model.{case.model.backbone.layers_path}"
    for number in layers:
        block = case.model.backbone.layers[number - 1]
        expected |= {f"{path}.{number - 1}.{name}" for name, _ in block.named_parameters()}
    assert trainable_names(case.model) == expected
    assert case.prep.expected_trainable == 2 * layer + (POOLED_HEAD if method == "elsa" else HEAD)


def test_layers_that_one_names_are_trained_with_the_head_alone(prepared):
    case = prepared("method=layers", "method.layers=[4,2]")
    assert case.prep.layers == (2, 4)
    path = f"backbone.model.{case.model.backbone.layers_path}"
    named = tuple(f"{path}.{index}." for index in (1, 3))
    assert all(name.startswith((*named, "head.")) for name in trainable_names(case.model))
    assert case.prep.expected_trainable == 2 * BERT_LAYER + HEAD


def test_named_layers_are_part_of_what_a_run_is_and_of_its_record(tmp_path):
    run, other = (
        compose_tiny(tmp_path, "method=layers", f"method.layers={layers}") for layers in ("[2,4]", "[1,4]")
    )
    assert run.run_id != other.run_id
    record = execute(run, Store(run.results_dir, run.outputs_dir))
    assert record.selection.layers == (2, 4) and record.selection.selector is None
    assert record.model.trainable["backbone"] == 2 * BERT_LAYER and record.model.lowest_trained_layer == 2


@pytest.mark.parametrize("layers", ["null", "[]", "[0,1]", "[4,5]", "[2,2]"])
def test_layers_that_are_not_there_or_named_twice_are_refused(tmp_path, layers):
    with pytest.raises(ConfigError, match="from 1"):
        build_method(compose_tiny(tmp_path, "method=layers", f"method.layers={layers}"))


def test_the_two_ends_of_the_scale_train_everything_and_the_head(prepared):
    full, head = prepared("method=full"), prepared("method=head_only")
    assert full.prep.expected_trainable == count(full.model.parameters())
    assert trainable_names(full.model) == {name for name, _ in full.model.named_parameters()}
    assert head.prep.expected_trainable == HEAD
    assert all(name.startswith("head.") for name in trainable_names(head.model))
    assert full.prep.layers is None and head.prep.layers is None  # nothing was selected


def test_the_final_norm_and_the_embeddings_stay_frozen_in_partial_methods(prepared):
    # Paper: only the k layers train; the released code trains GPT-2's final norm too.
    case = prepared("model=tiny_gpt2", "method=top_k", "method.k=3")
    assert not any("ln_f" in name or "wte" in name or "wpe" in name for name in trainable_names(case.model))


def test_an_unused_pooler_is_frozen_in_partial_methods(prepared):
    case = prepared("method=low_k", "model.pooler=true")
    assert not any(parameter.requires_grad for parameter in case.model.backbone.pooler.parameters())


def test_low_and_high_follow_the_recorded_scores(prepared):
    low, high = prepared("method=low_k", "method.k=2"), prepared("method=high_k", "method.k=2")
    ranked = sorted(range(1, 5), key=lambda layer: low.prep.scores.values[layer - 1])
    assert low.prep.layers == tuple(sorted(ranked[:2]))
    assert high.prep.layers == tuple(sorted(ranked[2:]))
    assert high.prep.scores == low.prep.scores and high.prep.reused and not low.prep.reused


def test_top_is_next_to_the_head_and_bottom_next_to_the_embeddings(prepared):
    assert prepared("method=top_k", "method.k=3").prep.layers == (2, 3, 4)
    assert prepared("method=bottom_k", "method.k=3").prep.layers == (1, 2, 3)


@pytest.mark.parametrize("seed", [0, 1, 2, 42, 100])
def test_random_layers_are_drawn_from_the_seed_alone(prepared, seed):
    run = prepared("method=random_k", "method.k=2", f"seed={seed}").run
    expected = tuple(sorted(layer + 1 for layer in random.Random(seed).sample(range(4), 2)))
    random.seed(999)
    torch.manual_seed(999)
    method = build_method(run)
    assert isinstance(method, SelectedLayers)
    assert method.select(4, None) == method.select(4, None) == expected


def test_blocks_get_one_layer_each(prepared):
    for method in ("block_high", "block_low", "block_median", "block_random"):
        first, second = prepared(f"method={method}", "method.k=2").prep.layers
        assert first in (1, 2) and second in (3, 4)


def test_scoring_with_gradients_leaves_the_model_as_it_was(prepared):
    scored, plain = prepared("method=grad_norm_k", "method.k=2"), prepared("method=top_k", "method.k=2")
    assert not any(p.grad is not None for p in scored.model.parameters())
    for (name, a), (_, b) in zip(
        scored.model.named_parameters(), plain.model.named_parameters(), strict=True
    ):
        assert torch.equal(a, b), name


def test_a_tensor_shared_by_two_parts_is_counted_once():
    shared = torch.nn.Linear(3, 2)
    model = torch.nn.ModuleDict({"a": shared, "b": shared, "c": torch.nn.Linear(2, 2)})
    assert count([*shared.parameters(), *shared.parameters()]) == 8
    assert train_only(model, [model["a"], model["b"]]) == 8
    assert not any(parameter.requires_grad for parameter in model["c"].parameters())


def test_train_only_unfreezes_what_an_earlier_method_had_frozen(prepared):
    model = prepared("method=head_only").model
    train_only(model, [model.backbone.layers[1]])
    assert {name.split(".layer.")[-1][0] for name in trainable_names(model)} == {"1"}


def test_what_an_optimiser_holds_is_trainable_and_used(prepared):
    case = prepared("model=tiny_gpt2", "method=full", "model.last_layer=raw")
    held = {name for name, _ in optimised(case.model)}
    norm = {name for name, _ in case.model.named_parameters() if "ln_f" in name}
    assert norm and held == trainable_names(case.model) - norm  # `raw` bypasses the final norm


def test_an_unknown_kind_lists_the_known_ones(prepared):
    run = prepared().run
    wrong = dataclasses.replace(run, method=dataclasses.replace(run.method, kind="selectd"))
    with pytest.raises(ConfigError, match=r"method\.kind=selectd does not exist") as found:
        build_method(wrong)
    assert all(name in str(found.value) for name in METHODS)


@pytest.mark.parametrize(
    ("method", "option", "takes"),
    [
        ("recap", "free_embeddings=no", "true or false"),
        ("recap", "free_embeddings=off", "true or false"),
        ("recap", "free_embeddings=maybe", "true or false"),
        ("recap", "free_embeddings=1", "true or false"),
        ("lora", "alpha=high", "a number"),
        ("lora", "alpha=true", "a number"),
        ("lift", "period=fast", "an integer"),
        ("lift", "period=2.5", "an integer"),
        ("lift", "period=true", "an integer"),
        ("slimfit", "freezing_rate=high", "a number"),
    ],
)
def test_an_option_that_is_null_in_the_yaml_has_a_type_too(tmp_path, method, option, takes):
    name, value = option.split("=")
    run = compose_tiny(tmp_path, f"method={method}", f"method.{option}")
    with pytest.raises(ConfigError, match=rf"(?i)method\.{name}='?{value}'? is not allowed: .*{takes}"):
        execute(run, Store(run.results_dir, run.outputs_dir))
    assert list(tmp_path.iterdir()) == []  # no record either


@pytest.mark.parametrize(
    ("method", "option", "attribute", "value"),
    [
        ("recap", "free_embeddings=false", "free_embeddings", False),
        ("recap", "free_embeddings=null", "free_embeddings", True),
        ("lora", "alpha=8", "alpha", 8.0),
        ("lora", "alpha=null", "alpha", 32),
        ("lift", "period=null", "period", 100),
    ],
)
def test_null_leaves_such_an_option_to_the_method(tmp_path, method, option, attribute, value):
    run = compose_tiny(tmp_path, f"method={method}", f"method.{option}")
    assert getattr(build_method(run), attribute) == value


@pytest.mark.parametrize("name", ["scorer", "selector"])
def test_a_misspelt_scorer_or_selector_is_refused_before_anything_is_read(tmp_path, name):
    run = compose_tiny(tmp_path, f"method.{name}=nosuch")
    with pytest.raises(ConfigError, match=rf"method\.{name}=nosuch does not exist; known: .*(cosine|lowest)"):
        execute(run, Store(run.results_dir, run.outputs_dir))
    assert list(tmp_path.iterdir()) == []  # no rows were encoded, no layer scored


def test_a_selector_that_needs_scores_says_so(prepared):
    run = prepared().run
    wrong = dataclasses.replace(run, method=dataclasses.replace(run.method, scorer=None))
    with pytest.raises(ConfigError, match="needs scores"):
        build_method(wrong).select(4, None)


def test_a_dotted_path_stands_for_a_method_a_scorer_or_a_selector_of_one_s_own(tmp_path, monkeypatch):
    class Mine(Full):
        pass

    def fixed(model, batches):
        examples = sum(len(batch) for batch in batches)
        return LayerScores((0.4, 0.1, 0.3, 0.2), (0.0,) * 4, None, examples, 0.0)

    def second(num_layers, k, scores, rng):
        return (2,)

    module = ModuleType("of_my_own")
    module.Mine, module.fixed, module.second = Mine, fixed, second
    monkeypatch.setitem(sys.modules, "of_my_own", module)
    assert isinstance(build_method(compose_tiny(tmp_path, "method=full", "method.kind=of_my_own.Mine")), Mine)
    case = prepare(compose_tiny(tmp_path, "method.scorer=of_my_own.fixed", "method.k=2"))
    assert case.prep.layers == (2, 4) and case.prep.scores.examples == 64
    case = prepare(compose_tiny(tmp_path, "method.selector=of_my_own.second", "method.k=1"))
    assert case.prep.layers == (2,)


def test_a_method_without_hooks_changes_nothing_and_is_evaluated_itself(prepared):
    case = prepared("method=full")
    method = Method(case.run)
    assert method.eval_model(case.model) is case.model
    for hook in (method.on_epoch_start, method.before_step, method.after_backward, method.after_step):
        assert hook(case.model, 1) is None
    with pytest.raises(NotImplementedError):
        method.prepare(case.model, case.data, case.runtime)


def generation_run(tmp_path, *overrides):
    run = compose_tiny(tmp_path, "model=tiny_gpt2", *overrides)
    return dataclasses.replace(run, task=dataclasses.replace(run.task, kind="generation"))


@pytest.mark.parametrize("norm", [False, True])
def test_generation_leaves_the_tied_head_frozen_in_partial_methods(tmp_path, norm):
    # Paper: only the k layers train; the released code trains ln_f as well, 2 · 768 numbers.
    model = real_language_model("gpt2")
    run = generation_run(tmp_path, "method=top_k", "method.k=3", "model.num_layers=12")
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, train_final_norm=norm))
    prep = build_method(run).prepare(model, None, None)
    assert prep.expected_trainable == 3 * 7_087_872 + (1_536 if norm else 0)
    assert not model.head.weight.requires_grad
    assert trained_layers(model) == prep.layers == (10, 11, 12)


def test_full_fine_tuning_trains_the_tied_head_once(tmp_path):
    model = real_language_model("gpt2")
    prep = build_method(generation_run(tmp_path, "method=full")).prepare(model, None, None)
    assert model.head.weight.requires_grad and prep.expected_trainable == 124_439_808
    assert parameter_facts(model, prep)["trainable"] == {"backbone": 124_439_808, "head": 0, "added": 0}
    groups = build_optimizer(model, generation_run(tmp_path).train).param_groups
    assert [group["name"] for group in groups] == ["backbone"]


def test_there_is_no_head_alone_in_generation(tmp_path):
    with pytest.raises(ConfigError, match="method=head_only trains nothing on task=demo"):
        build_method(generation_run(tmp_path, "method=head_only"))


def test_elsa_is_refused_in_generation_where_its_head_has_no_place(tmp_path):
    with pytest.raises(ConfigError, match=r"method=elsa has head: pooled .* task=e2e .* method=top_k"):
        compose_tiny(tmp_path, "model=tiny_gpt2", "task=e2e", "method=elsa", "method.k=1")


def test_elsa_trains_the_last_layers_under_the_standard_pooled_head(prepared):
    case = prepared("method=elsa", "method.k=1")
    assert isinstance(case.model.head, PooledHead) and case.prep.layers == (4,)
    assert case.prep.expected_trainable == BERT_LAYER + POOLED_HEAD
    assert compose_tiny(case.run.cache_dir, "method=elsa", "model.num_layers=12").method.k == 3
