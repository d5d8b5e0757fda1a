from __future__ import annotations

import copy
import dataclasses

import naive
import pytest
import torch
from tiny_models import DECODERS, ENCODERS, batch_of, tiny_backbone, tiny_task_model

from layertune.config.identity import GRADIENT_SCORERS, WEIGHT_SCORERS
from layertune.errors import ScoreError
from layertune.models import TaskModel
from layertune.models.heads import initialise
from layertune.scoring import SCORERS
from layertune.scoring.layer_scores import RunningStatistics
from layertune.tasks import Batch
from layertune.tasks.encode import IGNORED_LABEL

BATCHES = [batch_of([9, 5, 16, 3], seed=1), batch_of([7, 7, 11], seed=2), batch_of([4], seed=3)]
READING = sorted(set(SCORERS) - set(WEIGHT_SCORERS))
CHECKED = ["bert", "deberta", "gpt2", "llama"]
CLOSE = {"rel": 1e-5, "abs": 1e-5}


def snapshot(model) -> dict:
    return {
        "state": copy.deepcopy(model.state_dict()),
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [parameter.grad for parameter in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "head": model.head,
    }


@pytest.mark.parametrize("model_type", ENCODERS + DECODERS)
def test_cosine_equals_the_double_loop(model_type):
    model = tiny_task_model(model_type)
    with torch.no_grad():
        rows = naive.states_of(model, BATCHES, "representative")
    expected, matrix = naive.between_layers(rows, naive.cosine_of)
    scores = SCORERS["cosine"](model, BATCHES)
    assert scores.values == pytest.approx(expected, **CLOSE)
    for row, expected_row in zip(scores.matrix, matrix, strict=True):
        assert row == pytest.approx(expected_row, **CLOSE)
    assert scores.examples == 8 and scores.seconds > 0


@pytest.mark.parametrize("model_type", CHECKED)
def test_euclidean_equals_the_double_loop(model_type):
    model = tiny_task_model(model_type)
    with torch.no_grad():
        rows = naive.states_of(model, BATCHES, "representative")
    expected, matrix = naive.between_layers(rows, naive.distance_of)
    scores = SCORERS["euclidean"](model, BATCHES)
    assert scores.values == pytest.approx(expected, **CLOSE)
    for row, expected_row in zip(scores.matrix, matrix, strict=True):
        assert row == pytest.approx(expected_row, **CLOSE)


@pytest.mark.parametrize("tokens", ["all", "representative"])
@pytest.mark.parametrize("model_type", CHECKED)
def test_io_cosine_equals_the_loop_over_tokens(model_type, tokens):
    model = tiny_task_model(model_type)
    with torch.no_grad():
        expected = naive.io_cosine(naive.states_of(model, BATCHES, tokens))
    assert SCORERS["io_cosine"](model, BATCHES, tokens=tokens).values == pytest.approx(expected, **CLOSE)


@pytest.mark.parametrize("tokens", ["all", "representative"])
@pytest.mark.parametrize("model_type", CHECKED)
def test_feature_variance_equals_the_two_pass_formula(model_type, tokens):
    model = tiny_task_model(model_type)
    with torch.no_grad():
        expected = naive.feature_variance(naive.states_of(model, BATCHES, tokens))
    assert SCORERS["feature_variance"](model, BATCHES, tokens=tokens).values == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("model_type", CHECKED)
def test_gradient_norm_equals_a_plain_backward_pass_over_all_examples(model_type):
    plain = tiny_task_model(model_type)
    initialise(plain.head, 0)
    for batch in BATCHES:
        (plain(batch).loss * len(batch) / 8).backward()
    scores = SCORERS["gradient_norm"](tiny_task_model(model_type), BATCHES)
    assert scores.values == pytest.approx(norms_of(plain), rel=1e-4)
    assert scores.matrix is None and scores.examples == 8 and scores.std == (0, 0, 0, 0)


def norms_of(model) -> list[float]:
    """The L2 norm of each layer's gradients as one vector."""
    layers = [[p.grad for p in layer.parameters() if p.grad is not None] for layer in model.backbone.layers]
    return [float(torch.cat([gradient.flatten() for gradient in layer]).double().norm()) for layer in layers]


def test_the_gradient_norm_of_a_language_model_is_over_all_tokens_learnt_whatever_the_batches():
    backbone = tiny_backbone("gpt2")
    model = TaskModel(backbone, torch.nn.Linear(32, 60, bias=False), "generation").eval()
    both = batch_of([9, 9], seed=1)
    labels = both.input_ids.clone()
    labels[0, :7] = IGNORED_LABEL  # 2 tokens of the first text are learnt, 6 of the second
    labels[1, :3] = IGNORED_LABEL
    rows = [slice(0, 1), slice(1, 2), slice(0, 2)]
    first, second, whole = (
        Batch(both.input_ids[part], both.attention_mask[part], labels[part], None, both.indices[part])
        for part in rows
    )
    (0.25 * model(first).loss + 0.75 * model(second).loss).backward()
    expected = norms_of(model)
    for batches in ([first, second], [whole]):
        assert SCORERS["gradient_norm"](model, batches).values == pytest.approx(expected, rel=1e-4)


def test_defaults_are_all_tokens_for_io_cosine_and_the_representative_for_variance():
    model = tiny_task_model("bert")
    for name, tokens in (("io_cosine", "all"), ("feature_variance", "representative")):
        default = SCORERS[name](model, BATCHES)
        assert default.values == SCORERS[name](model, BATCHES, tokens=tokens).values
        other = {"all": "representative", "representative": "all"}[tokens]
        assert default.values != SCORERS[name](model, BATCHES, tokens=other).values


def test_standard_deviations_are_taken_over_examples():
    model = tiny_task_model("bert")
    singles = [batch_of([length], seed=length) for length in (4, 6, 9, 13)]
    for name in ("cosine", "euclidean", "io_cosine", "block_influence", "angular", "fisher"):
        whole = SCORERS[name](model, singles)
        each = [SCORERS[name](model, [single]).values for single in singles]
        for layer in range(4):
            values = torch.tensor([values[layer] for values in each], dtype=torch.float64)
            assert whole.std[layer] == pytest.approx(float(values.std(correction=0)), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_the_mean_is_over_examples_so_the_batch_size_does_not_matter(name):
    model = tiny_task_model("gpt2")
    one = batch_of([9, 5, 16, 3, 7], seed=4)
    parts = [
        type(one)(one.input_ids[rows], one.attention_mask[rows], one.labels[rows], None, one.indices[rows])
        for rows in (slice(0, 4), slice(4, 5))
    ]
    assert SCORERS[name](model, parts).values == pytest.approx(SCORERS[name](model, [one]).values, **CLOSE)


@pytest.mark.parametrize("name", sorted(SCORERS))
@pytest.mark.parametrize("model_type", ["bert", "gpt2"])
def test_scoring_leaves_the_model_exactly_as_it_was(name, model_type):
    model = tiny_task_model(model_type).train()
    model.backbone.layers[1].eval()
    model.backbone.layers[0].requires_grad_(False)
    model.backbone.layers[3].output_marker = None
    before = snapshot(model)
    SCORERS[name](model, BATCHES)
    after = snapshot(model)
    assert all(torch.equal(value, before["state"][key]) for key, value in after["state"].items())
    assert after["flags"] == before["flags"] and after["modes"] == before["modes"]
    assert all(gradient is None for gradient in after["grads"]) and after["head"] is before["head"]


@pytest.mark.parametrize("name", READING)
def test_the_model_is_restored_when_a_batch_fails(name):
    model = tiny_task_model("bert").train()
    model.backbone.layers[0].requires_grad_(False)
    before = snapshot(model)
    bad = dataclasses.replace(BATCHES[0], input_ids=BATCHES[0].input_ids + 1000)
    with pytest.raises(IndexError):
        SCORERS[name](model, [BATCHES[1], bad])
    after = snapshot(model)
    assert after["flags"] == before["flags"] and after["modes"] == before["modes"]
    assert all(not layer._forward_hooks for layer in model.backbone.layers)


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_dropout_is_off_and_nothing_is_drawn_while_scoring(name):
    model = tiny_task_model("bert").train()
    state = torch.random.get_rng_state()
    first = SCORERS[name](model, BATCHES)
    assert torch.equal(state, torch.random.get_rng_state())
    assert first.values == SCORERS[name](model.eval(), BATCHES).values


def test_the_gradient_norm_does_not_depend_on_the_runs_head_but_on_the_training_loss():
    model = tiny_task_model("bert")
    first = SCORERS["gradient_norm"](model, BATCHES).values
    initialise(model.head, 12345)
    assert SCORERS["gradient_norm"](model, BATCHES).values == first
    model.label_smoothing = 0.5
    assert SCORERS["gradient_norm"](model, BATCHES).values != first


@pytest.mark.parametrize("name", sorted(SCORERS))
def test_a_score_that_is_not_finite_names_its_layer(name):
    model = tiny_task_model("bert")
    with torch.no_grad():
        model.backbone.layers[2].output.dense.weight[0, 0] = float("nan")
    layer = 1 if name in GRADIENT_SCORERS else 3  # a loss that is not a number spoils every gradient
    with pytest.raises(ScoreError, match=rf"the {name} score of layer {layer} is nan"):
        SCORERS[name](model, BATCHES)


@pytest.mark.parametrize("name", READING)
def test_no_examples_is_an_error(name):
    with pytest.raises(ScoreError, match="no example"):
        SCORERS[name](tiny_task_model("bert"), [])


def test_a_state_without_direction_has_no_cosine():
    model = tiny_task_model("bert")
    with torch.no_grad():
        for parameter in model.backbone.layers[3].output.LayerNorm.parameters():
            parameter.zero_()
    with pytest.raises(ScoreError, match="the cosine score of layer 4 is nan"):
        SCORERS["cosine"](model, BATCHES)


def test_scores_under_bf16_autocast_stay_close_to_fp32():
    model = tiny_task_model("bert")
    exact = SCORERS["cosine"](model, BATCHES).values
    with torch.autocast("cpu", torch.bfloat16):
        assert SCORERS["cosine"](model, BATCHES).values == pytest.approx(exact, abs=0.02)


def test_running_moments_stay_exact_far_from_zero():
    rows = torch.randn(1000, 3, dtype=torch.float64) + 1e6
    moments = RunningStatistics()
    for part in rows.split([1, 499, 400, 100]):
        moments.update(part)
    torch.testing.assert_close(moments.mean, rows.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(moments.variance, rows.var(0, correction=0), rtol=1e-8, atol=0)
