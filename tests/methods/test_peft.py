"""LoRA and (IA)³ start at the pretrained function, follow their formula, agree with peft's own model."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from added_cases import ALL, NO_DROPOUT, added, insert, language_model, method_of, shake
from tiny_models import batch_of, tiny_model, tiny_task_model

from layertune.config import ModelSpec
from layertune.errors import ConfigError
from layertune.methods.peft import merged
from layertune.models import Backbone, TaskModel
from layertune.models.architectures import architecture_of

SEPARATE = [name for name in ALL if architecture_of(name).sites.fused is None]
METHODS = [("lora", {}), ("ia3", {}), ("ia3", {"targets": "all"})]


def inserted(name, model_type, **options):
    """A model whose inserted parameters have left their initial values, and those parameters."""
    model = tiny_task_model(model_type)
    new = added(model, insert(name, model, **options))
    shake(new.values())
    return model, new


@pytest.mark.parametrize("model_type", ALL)
@pytest.mark.parametrize(("name", "options"), METHODS)
def test_they_start_exactly_at_the_pretrained_function_and_leave_it_when_moved(name, options, model_type):
    model, batch = tiny_task_model(model_type), batch_of([9, 4, 6])
    pretrained = model(batch).logits
    prep = insert(name, model, **options)
    torch.testing.assert_close(model(batch).logits, pretrained, rtol=0.0, atol=0.0)
    shake(added(model, prep).values())
    assert (model(batch).logits - pretrained).abs().max() > 1e-4


@pytest.mark.parametrize("model_type", SEPARATE)
def test_lora_adds_scaled_low_rank_updates_to_query_and_value(model_type):
    model, new = inserted("lora", model_type, r=4, alpha=12)
    plain, sites = tiny_task_model(model_type), architecture_of(model_type).sites
    with torch.no_grad():
        for number, block in enumerate(plain.backbone.layers):
            for path in (sites.query, sites.value):
                site = f"backbone.model.{plain.backbone.layers_path}.{number}.{path}"
                a, b = (new[f"{site}.lora_{side}.default.weight"] for side in "AB")
                assert a.shape[0] == b.shape[1] == 4
                block.get_submodule(path).weight += 3.0 * b @ a  # alpha / r = 12 / 4
    batch = batch_of([9, 4, 6])
    torch.testing.assert_close(model(batch).logits, plain(batch).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", SEPARATE)
def test_ia3_scales_keys_values_and_the_inner_activation(model_type):
    model, new = inserted("ia3", model_type)
    plain, sites = tiny_task_model(model_type), architecture_of(model_type).sites
    with torch.no_grad():
        for number, block in enumerate(plain.backbone.layers):
            site = f"backbone.model.{plain.backbone.layers_path}.{number}"
            for path in (sites.key, sites.value):
                gain = new[f"{site}.{path}.ia3_l.default"].flatten()
                linear = block.get_submodule(path)
                linear.weight *= gain[:, None]
                if linear.bias is not None:
                    linear.bias *= gain
            inner = new[f"{site}.{sites.ffn_out}.ia3_l.default"].flatten()
            block.get_submodule(sites.ffn_out).weight *= inner
    assert len(new) == 4 * 3
    batch = batch_of([9, 4, 6])
    torch.testing.assert_close(model(batch).logits, plain(batch).logits, rtol=1e-5, atol=1e-5)


def librarys_own(config, model_type, seed):
    """peft's own model on the same weights, drawn from the global generator."""
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return get_peft_model(tiny_model(model_type), config)


def trained(forward, module, steps=3):
    """Last hidden states of a few steps in training mode, and those in evaluation mode afterwards."""
    torch.manual_seed(11)  # the dropout of both models
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    batch, seen = batch_of([9, 4, 6]), []
    module.train()
    for _ in range(steps):
        states = forward(batch)
        seen.append(states.detach())
        (states[:, 0] - 1.0).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    module.eval()
    return [*seen, forward(batch).detach()]


LORA_TARGETS = {
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
    "electra": ["query", "value"],
    "deberta-v2": ["query_proj", "value_proj"],
    "llama": ["q_proj", "v_proj"],
    "gemma2": ["q_proj", "v_proj"],
}


def assert_agree_in_training(name, model_type, config, **options):
    model = tiny_task_model(model_type)
    insert(name, model, seed=42, **options)
    model.head.requires_grad_(False)
    own = librarys_own(config, model_type, seed=42)

    def forward(batch):
        return own(**model.backbone.inputs(batch)).last_hidden_state

    ours, theirs = trained(model.backbone.run, model), trained(forward, own)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0.0, atol=0.0)
    assert (ours[0] - ours[-1]).abs().max() > 1e-2


@pytest.mark.parametrize("model_type", LORA_TARGETS)
def test_lora_agrees_with_the_librarys_own_model_in_training_on_the_same_seed(model_type):
    from peft import LoraConfig

    targets = LORA_TARGETS[model_type]
    config = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.1, target_modules=targets)
    assert_agree_in_training("lora", model_type, config)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "deberta-v2", "llama"])
def test_ia3_agrees_with_the_librarys_own_model_in_training(model_type):
    from peft import IA3Config

    down = r".*\.down_proj" if model_type == "llama" else r".*layer\.\d+\.output\.dense"
    names = {"deberta-v2": "key_proj|value_proj", "llama": "k_proj|v_proj"}.get(model_type, "key|value")
    config = IA3Config(target_modules=rf".*\.({names})|{down}", feedforward_modules=down)
    assert_agree_in_training("ia3", model_type, config)


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "deberta", "gemma2"])
def test_all_targets_are_the_librarys_default(model_type):
    from peft import IA3Config

    config = IA3Config(fan_in_fan_out=model_type == "gpt2")
    assert_agree_in_training("ia3", model_type, config, targets="all")


@pytest.mark.parametrize("model_type", ALL)
@pytest.mark.parametrize(("name", "options"), METHODS)
def test_merged_equals_unmerged_and_the_weights_return_bit_for_bit(name, options, model_type):
    model, _ = inserted(name, model_type, **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    batch = batch_of([9, 4, 6])
    unmerged = model(batch).logits
    with merged(model):
        torch.testing.assert_close(model(batch).logits, unmerged, rtol=1e-4, atol=1e-5)
        assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    torch.testing.assert_close(model(batch).logits, unmerged, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_loras_dropout_acts_in_training_alone(model_type):
    def outputs(dropout):
        backbone = Backbone(tiny_model(model_type, **NO_DROPOUT), "first")
        model = TaskModel(backbone, torch.nn.Flatten(), "classification")
        shake(added(model, insert("lora", model, dropout=dropout)).values())
        batch = batch_of([9, 9])
        model.train()
        first, second = (model.representatives(batch) for _ in range(2))
        return first, second, model.eval().representatives(batch)

    first, second, quiet = outputs(0.1)
    assert not torch.equal(first, second) and not torch.equal(first, quiet)
    first, second, without = outputs(0.0)
    assert torch.equal(first, second) and torch.equal(first, without) and torch.equal(quiet, without)


@pytest.mark.parametrize("name", ["lora", "adapters", "prefix"])
@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_weights_are_drawn_from_the_seed_alone_and_the_global_generator_is_left_as_it_was(name, model_type):
    drawn = []
    for seed, disturbance in ((5, 1), (5, 2), (6, 1)):
        model = tiny_task_model(model_type)
        torch.manual_seed(disturbance)
        state = torch.get_rng_state()
        new = added(model, insert(name, model, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append(torch.cat([parameter.detach().flatten() for parameter in new.values()]))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("name", ["lora", "ia3", "adapters", "prefix"])
def test_inserted_modules_take_the_mode_of_the_model_and_copies_stand_alone(name):
    model = tiny_task_model("gpt2")
    new = added(model, insert(name, model))
    assert not any(module.training for module in model.modules())
    batch, twin = batch_of([9, 4]), copy.deepcopy(model)
    before = twin(batch).logits
    shake(new.values())
    torch.testing.assert_close(twin(batch).logits, before, rtol=0.0, atol=0.0)
    assert not torch.equal(model(batch).logits, before)


@pytest.mark.parametrize("model_type", ["gpt2", "gemma2", "llama"])
@pytest.mark.parametrize("name", ["lora", "ia3", "adapters"])
def test_a_language_model_decodes_with_what_was_inserted(name, model_type):
    model = language_model(model_type)
    ids = batch_of([7]).input_ids
    plain = model.causal_lm(ids).logits
    shake(added(model, insert(name, model)).values(), scale=1.0)
    assert (model.causal_lm(ids).logits - plain).abs().max() > 0.1
    decoded = model.causal_lm.generate(ids, max_new_tokens=6, do_sample=False, pad_token_id=1)
    for _ in range(decoded.shape[1] - ids.shape[1]):  # without a cache, through the training path
        whole = torch.ones_like(ids)
        logits = model.head(model.backbone.model(input_ids=ids, attention_mask=whole).last_hidden_state)
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(decoded, ids)


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("lora", "r", 0, "method.r=0 is not allowed"),
        ("lora", "alpha", 0.0, "method.alpha=0.0 is not allowed"),
        ("lora", "dropout", 1.0, "method.dropout=1.0 is not allowed"),
        ("ia3", "targets", "some", "method.targets=some does not exist; known: all, original"),
        ("adapters", "bottleneck", 0, "method.bottleneck=0 is not allowed"),
        ("adapters", "activation", "tanh", "known: gelu, relu"),
        ("prefix", "length", 0, "method.length=0 is not allowed"),
    ],
)
def test_options_out_of_range_are_refused(name, option, value, message):
    with pytest.raises(ConfigError, match=message):
        method_of(name, **{option: value})


def test_an_unknown_architecture_is_refused_before_anything_is_loaded():
    with pytest.raises(ConfigError, match="does not know where xlm keeps its projections"):
        method_of("lora", model=ModelSpec(source="random", random_config={"model_type": "xlm"}))


def test_the_library_is_imported_only_where_it_is_needed():
    code = "import sys, layertune.pipeline; sys.exit('peft' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
