from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tiny_models import batch_of, tiny_backbone, tiny_task_model
from transformers import AutoConfig, AutoModel

from layertune.config import MethodSpec, ModelSpec, ProtocolSpec, RunConfig, TaskSpec, TrainSpec
from layertune.errors import ModelError
from layertune.models import Backbone, ConcatHead, PooledHead, build_model
from layertune.models.heads import rms_normalised

TINY_BERT = ModelSpec(
    name="tiny_bert",
    source="random",
    num_layers=4,
    random_config={
        "model_type": "bert",
        "vocab_size": 60,
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    },
)
TINY_GPT2 = ModelSpec(
    name="tiny_gpt2",
    family="decoder",
    source="random",
    num_layers=4,
    random_config={"model_type": "gpt2", "vocab_size": 60, "n_embd": 32, "n_layer": 4, "n_head": 4},
)


def run_of(model: ModelSpec, seed: int = 0, **train: object) -> RunConfig:
    return RunConfig(model, TaskSpec(), MethodSpec(), ProtocolSpec(), TrainSpec(**train), seed=seed)


def count(*modules: torch.nn.Module) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_parameter_counts_of_bert_base_are_the_papers():
    """28.3 M and 116.6 M of Table 4, on the real configuration without allocating it."""
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.for_model("bert"), add_pooling_layer=True)
        backbone = Backbone(model, "first")
        head = ConcatHead(12, 768, 2, 0.3)
    assert count(head) == 7_080_194
    assert [count(layer) for layer in backbone.layers] == [7_087_872] * 12
    assert count(backbone, head) == 116_562_434
    assert count(*backbone.layers[:3], head) == 28_343_810
    assert count(backbone.pooler) == 590_592


LLAMA_1B = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22}
LLAMA_1B |= {"num_attention_heads": 32, "num_key_value_heads": 4}
DEBERTA = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}


@pytest.mark.parametrize(
    ("model_type", "config", "per_layer", "head"),
    [
        ("roberta", {}, 7_087_872, 7_080_194),
        ("deberta", DEBERTA, 8_267_520, 7_080_194),
        ("gpt2", {}, 7_087_872, 7_080_194),
        ("llama", LLAMA_1B, 44_044_288, 92_280_834),  # TinyLlama
        ("gemma2", {}, 77_865_984, 138_025_730),  # Gemma-2-2B
    ],
)
def test_parameter_counts_of_the_other_architectures_at_full_size(model_type, config, per_layer, head):
    with torch.device("meta"):
        config = AutoConfig.for_model(model_type, **config)
        backbone = Backbone(AutoModel.from_config(config, attn_implementation="eager"), "last")
        concat = ConcatHead(backbone.num_layers, backbone.hidden_size, 2, 0.3)
    assert {count(layer) for layer in backbone.layers} == {per_layer}
    assert count(concat) == head


def test_the_concat_head_is_dropout_linear_relu_linear_on_the_layers_side_by_side():
    head = ConcatHead(3, 4, 2, dropout=0.3).eval()
    vectors = torch.randn(5, 3, 4)
    flat = torch.stack([torch.cat([row[0], row[1], row[2]]) for row in vectors])
    hidden = (flat @ head.project.weight.T + head.project.bias).clamp(min=0)
    torch.testing.assert_close(head(vectors), hidden @ head.out.weight.T + head.out.bias)
    assert head.dropout.p == 0.3
    head.train()
    assert not torch.equal(head(vectors), head(vectors))


def test_dropout_acts_on_the_layers_side_by_side_and_in_the_pooled_head_before_the_last_map():
    vectors = torch.randn(5, 3, 4)
    concat, pooled = ConcatHead(3, 4, 2, dropout=1.0), PooledHead(4, 2, dropout=1.0)  # nothing comes through
    from_bias = concat.out(concat.project.bias.clamp(min=0))
    torch.testing.assert_close(concat.train()(vectors), from_bias.expand(5, 2))
    torch.testing.assert_close(pooled.train()(vectors), pooled.out.bias.expand(5, 2))


def test_the_pooled_head_reads_the_last_layer_only():
    head = PooledHead(4, 2, dropout=0.3).eval()
    vectors = torch.randn(5, 3, 4)
    others = vectors.clone()
    others[:, :2] = 9.0
    torch.testing.assert_close(head(vectors), head(others))
    hidden = torch.tanh(vectors[:, 2] @ head.project.weight.T + head.project.bias)
    torch.testing.assert_close(head(vectors), hidden @ head.out.weight.T + head.out.bias)


def test_rms_normalisation_gives_every_vector_a_root_mean_square_of_one():
    vectors = torch.tensor([[3.0, 4.0], [300.0, 400.0]])
    expected = torch.tensor([3.0, 4.0]) / (12.5**0.5)
    torch.testing.assert_close(rms_normalised(vectors), expected.expand(2, 2), rtol=1e-5, atol=1e-5)
    vectors = torch.randn(5, 3, 4)
    head = ConcatHead(3, 4, 2, 0.3, rms=True).eval()
    torch.testing.assert_close(head(vectors), head(vectors * 50), rtol=1e-4, atol=1e-4)


def test_the_loss_is_cross_entropy_with_the_models_label_smoothing():
    model, batch = tiny_task_model("bert"), batch_of([9, 5, 7])
    output = model(batch)
    assert output.logits.shape == (3, 3)
    log_probabilities = output.logits.log_softmax(-1)
    picked = log_probabilities[torch.arange(3), batch.labels]
    torch.testing.assert_close(output.loss, -picked.mean())
    model.label_smoothing = 0.1
    smoothed = -(0.9 * picked + 0.1 * log_probabilities.mean(-1)).mean()
    torch.testing.assert_close(model(batch).loss, smoothed)


def test_regression_is_the_mean_squared_error_on_the_raw_score():
    model, batch = tiny_task_model("bert", "regression", outputs=1), batch_of([9, 5, 7])
    batch = dataclasses.replace(batch, labels=torch.tensor([0.0, 2.5, 5.0]))
    output = model(batch)
    assert output.logits.shape == (3, 1)
    scores = output.logits[:, 0].tolist()
    expected = (scores[0] ** 2 + (scores[1] - 2.5) ** 2 + (scores[2] - 5.0) ** 2) / 3
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)


def test_generation_predicts_the_next_token_where_the_label_is_not_masked():
    model = build_model(run_of(TINY_GPT2, label_smoothing=0.1), 0, "generation")
    batch = batch_of([9, 6])
    labels = torch.full_like(batch.input_ids, -100)
    labels[0, 4:9] = batch.input_ids[0, 4:9]
    labels[1, 3:6] = batch.input_ids[1, 3:6]
    batch = dataclasses.replace(batch, labels=labels)
    output = model(batch)
    assert output.logits.shape == (5 + 3, 60)
    reference = model.causal_lm(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    terms, predicting = [], []
    for row, start, end in ((0, 4, 9), (1, 3, 6)):
        for position in range(start, end):  # the token at `position` is predicted by the state before it
            predicting.append(reference[row, position - 1])
            log_probabilities = predicting[-1].log_softmax(-1)
            terms.append(
                -0.9 * log_probabilities[batch.input_ids[row, position]] - 0.1 * log_probabilities.mean()
            )
    torch.testing.assert_close(output.loss, torch.stack(terms).mean())
    torch.testing.assert_close(output.logits, torch.stack(predicting))
    known = dataclasses.replace(batch, targets=torch.tensor([4, 5, 6, 7, 8, 9 + 3, 9 + 4, 9 + 5]))
    assert torch.equal(model(known).logits, output.logits)


def test_a_generation_head_is_tied_to_the_embeddings_and_counted_once():
    model = build_model(run_of(TINY_GPT2), 0, "generation")
    assert model.head.weight is model.backbone.model.get_input_embeddings().weight
    assert count(model) == count(model.causal_lm) == count(model.backbone)
    model.backbone.layers[0].requires_grad_(False)
    assert not next(model.causal_lm.base_model.h[0].parameters()).requires_grad


def test_gemmas_soft_capped_logits_equal_the_librarys():
    spec = dataclasses.replace(
        TINY_GPT2,
        random_config={
            "model_type": "gemma2",
            "vocab_size": 60,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "intermediate_size": 64,
            "final_logit_softcapping": 0.5,
        },
    )
    model, batch = build_model(run_of(spec), 0, "generation"), batch_of([9, 6])
    labels = torch.full_like(batch.input_ids, -100)
    labels[0, 1:], labels[1, 1:6] = batch.input_ids[0, 1:], batch.input_ids[1, 1:6]
    batch = dataclasses.replace(batch, labels=labels)
    reference = model.causal_lm(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    torch.testing.assert_close(model(batch).logits, torch.cat([reference[0, :8], reference[1, :5]]))
    assert reference.abs().max() < 0.5


def test_only_a_generation_model_generates():
    with pytest.raises(ModelError, match="classification model has no language-model head"):
        _ = tiny_task_model("gpt2").causal_lm


def test_the_head_depends_on_the_seed_alone():
    torch.manual_seed(5)
    first = build_model(run_of(TINY_BERT, seed=42), 3, "classification")
    state = torch.random.get_rng_state()
    torch.manual_seed(99)
    torch.rand(1000)
    second = build_model(run_of(TINY_BERT, seed=42), 3, "classification")
    other = build_model(run_of(TINY_BERT, seed=43), 3, "classification")
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
        if not name.startswith("head."):
            assert torch.equal(value, other.state_dict()[name]), name
    assert not torch.equal(first.head.project.weight, other.head.project.weight)
    torch.manual_seed(5)
    assert torch.equal(
        state, torch.random.get_rng_state()
    )  # building draws nothing from the global generator


def test_a_model_is_built_in_fp32_evaluation_mode_with_every_parameter_named_once():
    model = build_model(run_of(TINY_BERT), 3, "classification")
    assert not any(module.training for module in model.modules())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    names = list(model.state_dict())
    assert "backbone.model.encoder.layer.0.attention.self.query.weight" in names
    assert len(names) == len(set(model.state_dict().keys()))
    assert sum(parameter.numel() for parameter in model.state_dict().values()) == count(model)
    assert model.backbone.pooler is None


def test_an_unused_pooler_is_built_on_request_and_is_frozen():
    spec = dataclasses.replace(TINY_BERT, pooler=True)
    model = build_model(run_of(spec), 3, "classification")
    assert count(model) - count(build_model(run_of(TINY_BERT), 3, "classification")) == 32 * 32 + 32
    assert not any(parameter.requires_grad for parameter in model.backbone.pooler.parameters())
    model(batch_of([9, 5])).loss.backward()
    assert all(parameter.grad is None for parameter in model.backbone.pooler.parameters())


def test_the_methods_head_and_the_models_options_reach_the_head():
    run = run_of(dataclasses.replace(TINY_BERT, head_dropout=0.1, rep_norm="rms"))
    head = build_model(run, 3, "classification").head
    assert isinstance(head, ConcatHead) and head.dropout.p == 0.1 and head.rms
    run = dataclasses.replace(run, method=MethodSpec(head="pooled"))
    assert isinstance(build_model(run, 3, "classification").head, PooledHead)


def test_a_fresh_head_shares_the_backbone_and_leaves_the_model_alone():
    model = tiny_task_model("bert")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fresh = model.with_fresh_head(0)
    assert fresh.backbone is model.backbone and fresh.head is not model.head
    assert torch.equal(fresh.head.project.weight, model.with_fresh_head(0).head.project.weight)
    assert not torch.equal(fresh.head.project.weight, model.head.project.weight)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_losses_under_bf16_autocast_are_computed_in_fp32():
    model, batch = tiny_task_model("bert"), batch_of([9, 5, 7])
    with torch.autocast("cpu", torch.bfloat16):
        output = model(batch)
    assert output.loss.dtype is output.logits.dtype is torch.float32
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, batch.labels))


def test_the_representative_vectors_of_a_task_model_are_those_of_its_backbone():
    model, batch = tiny_task_model("gpt2"), batch_of([9, 5, 7])
    torch.testing.assert_close(model.representatives(batch), tiny_backbone("gpt2")(batch))


def test_a_text_is_read_at_the_token_that_has_seen_it():
    causal = dataclasses.replace(TINY_GPT2, family="encoder")
    with pytest.raises(ModelError, match="decoder"):
        build_model(run_of(causal), 3, "classification")
    chosen = dataclasses.replace(causal, representative="first")
    assert build_model(run_of(chosen), 3, "classification").backbone.representative_token == "first"
    shape = {"vocab_size": 60, "d_model": 32, "n_layer": 4, "n_head": 4, "d_head": 8}
    xlnet = dataclasses.replace(TINY_BERT, random_config={"model_type": "xlnet", **shape})
    with pytest.raises(ModelError, match="representative=last"):
        build_model(run_of(xlnet), 3, "classification")


def test_a_model_that_drops_layers_in_training_is_scored_and_not_trained():
    shape = {**TINY_BERT.random_config, "model_type": "opt", "ffn_dim": 64, "word_embed_proj_dim": 32}
    run = run_of(dataclasses.replace(TINY_GPT2, random_config={**shape, "layerdrop": 0.1}))
    with pytest.raises(ModelError, match="layerdrop"):
        build_model(run, 3, "classification")
    assert build_model(dataclasses.replace(run, stage="score"), 3, "classification").backbone.num_layers == 4
