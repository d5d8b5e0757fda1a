"""RECAP's primitives: which groups are lowest, and that a smaller model computes what the whole one would."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from added_cases import language_model, real_model
from test_methods import GPT2_LAYER, generation_run
from tiny_models import DECODERS, ENCODERS, batch_of, tiny_task_model
from tiny_runs import compose_tiny
from torch.utils.flop_counter import FlopCounterMode

from layertune import records
from layertune.config import TrainSpec
from layertune.errors import ConfigError
from layertune.methods import build_method, count
from layertune.methods.recap.prune import (
    everything,
    highest_rows,
    layout_of,
    most_of_a_layer,
    pruned_copy,
    removed_after,
    without_lowest,
)
from layertune.methods.recap.scores import MINI_BATCHES, draw_rows, fisher_rows, taylor
from layertune.pipeline import execute

HEADS, SIZE, INNER = 4, 8, 64  # of the tiny models: 4 heads of 8 make up the width of 32

# Where the tiny models keep what a head or a neuron feeds: the map behind it, and which of its dimensions.
BEHIND = {
    "bert": ("attention.output.dense", "output.dense", 1),
    "mpnet": ("attention.attn.o", "output.dense", 1),
    "gpt2": ("attn.c_proj", "mlp.c_proj", 0),
    "llama": ("self_attn.o_proj", "mlp.down_proj", 1),
}
BEHIND |= dict.fromkeys(("roberta", "electra", "deberta", "deberta-v2"), BEHIND["bert"])
BEHIND["gemma2"] = BEHIND["llama"]


def inner_width(model_type):
    return 4 * 32 if model_type == "gpt2" else INNER


def without(layout, heads, neurons):
    """All groups but those given as (layer from 0, group)."""
    return tuple(
        tuple(
            tuple(g for g in groups if (layer, g) not in gone)
            for layer, groups in enumerate(everything_of_pool)
        )
        for everything_of_pool, gone in zip(everything(layout, 4), (heads, neurons), strict=True)
    )


@pytest.mark.parametrize("model_type", [*ENCODERS, *DECODERS])
def test_the_pruned_model_computes_what_the_whole_one_does_with_those_groups_silenced(model_type):
    model = tiny_task_model(model_type).double()
    batch = batch_of([9, 14, 16])
    layout = layout_of(model.backbone)
    is_grouped = model_type in ("llama", "gemma2")  # two query heads share a key and a value
    heads = {(0, 1), (3, 0)} if is_grouped else {(0, 1), (0, 3), (2, 0), (3, 2)}
    neurons = {(0, 5), (1, 0), (1, inner_width(model_type) - 1), (3, 17)}
    assert [pool.size for pool in layout.pools] == [2 if is_grouped else 4, inner_width(model_type)]
    small = pruned_copy(model, layout, without(layout, heads, neurons))
    with torch.no_grad():
        whole_before = model(batch).logits
        pruned = small(batch).logits
        width = 2 * SIZE if is_grouped else SIZE
        output, second, dim = BEHIND[model_type]
        for layer, head in heads:
            weight = model.backbone.layers[layer].get_submodule(output).weight
            weight.narrow(dim, head * width, width).zero_()
        for layer, neuron in neurons:
            model.backbone.layers[layer].get_submodule(second).weight.select(dim, neuron).zero_()
        silenced = model(batch).logits
    assert (silenced - whole_before).abs().max() > 1e-4
    torch.testing.assert_close(pruned, silenced, rtol=0, atol=1e-12)


@pytest.mark.parametrize("model_type", [*ENCODERS, *DECODERS])
def test_half_the_groups_are_half_the_work_of_a_layer_and_half_its_numbers(model_type):
    model = tiny_task_model(model_type)
    model.backbone.model.config._attn_implementation = "eager"  # a fused kernel counts otherwise
    layout = layout_of(model.backbone)
    heads, neurons = (pool.size for pool in layout.pools)
    kept = ((tuple(range(heads // 2)),) * 4, (tuple(range(neurons // 2)),) * 4)
    small = pruned_copy(model, layout, kept)
    assert work_of_a_layer(model) == 2 * work_of_a_layer(small) > 0
    removed = sum(4 * pool.numbers * (pool.size // 2) for pool in layout.pools)
    assert count(small.parameters()) == count(model.parameters()) - removed


def work_of_a_layer(model):
    """Floating-point operations of the third layer in one forward pass."""
    model.requires_grad_(False)  # the counter stumbles over parameters among a module's inputs
    with FlopCounterMode(display=False) as counter:
        model.backbone.run(batch_of([16, 16]))
    (name,) = (n for n in counter.get_flop_counts() if n.endswith(f"{model.backbone.layers_path}.2"))
    return sum(counter.get_flop_counts()[name].values())


def test_numbers_of_a_group_on_bert_base_and_gpt2():
    # Three times 64 rows of 768 with a bias and 64 columns of 768; a row of 768 with a bias and a column.
    for model_type in ("bert", "gpt2"):
        layout = layout_of(real_model(model_type).backbone)
        assert [pool.numbers for pool in layout.pools] == [3 * 64 * 769 + 64 * 768, 769 + 768]
        assert [pool.size for pool in layout.pools] == [12, 3072]


def test_a_pruned_language_model_generates():
    model = language_model("gpt2")
    layout = layout_of(model.backbone)
    small = pruned_copy(model, layout, without(layout, {(0, 1), (1, 0), (1, 2)}, {(2, 3)}))
    assert small.head is small.causal_lm.get_output_embeddings()
    assert small.head.weight is small.backbone.model.wte.weight  # still tied
    ids = batch_of([6]).input_ids[:, :6]
    options = {"max_new_tokens": 5, "num_beams": 2, "do_sample": False}
    found = small.causal_lm.generate(ids, **options, use_cache=True)
    assert torch.equal(found, small.causal_lm.generate(ids, **options, use_cache=False))


def test_talking_heads_cannot_be_removed():
    model = tiny_task_model("deberta")
    model.backbone.model.config.talking_head = True
    with pytest.raises(ConfigError, match="talking heads"):
        layout_of(model.backbone)


def test_the_globally_lowest_go_but_no_layer_loses_more_than_its_share():
    kept = ((0, 1, 2, 3), (0, 1, 2, 3))
    scores = [torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([5.0, 0.35, 6.0, 0.35])]
    assert without_lowest(kept, scores, 2, 4) == ((2, 3), (0, 1, 2, 3))
    assert without_lowest(kept, scores, 4, 4) == ((3,), (0, 2, 3))  # 85 % of 4: three; of equals the first
    assert without_lowest(kept, scores, 5, 4) == ((3,), (0, 2))
    left = ((1, 3), (0, 1, 2))  # a later sub-step: scores are those of what is left
    assert without_lowest(left, [torch.tensor([9.0, 1.0]), torch.tensor([3.0, 2.0, 8.0])], 2, 4) == (
        (1,),
        (0, 2),
    )


def test_sub_steps_remove_the_same_share_of_the_whole():
    assert removed_after(144, 0.17, 1, 1) == 24  # 24.48
    assert removed_after(36_864, 0.17, 1, 1) == 6_266  # 6266.88
    assert [removed_after(100, 0.3, step, 3) for step in (1, 2, 3)] == [10, 20, 30]


def test_rows_of_the_highest_score_train_over_all_matrices_together():
    scores = {"a": torch.tensor([1.0, 9.0, 3.0]), "b": torch.tensor([8.0, 2.0, 3.0, 0.0])}
    masks = highest_rows(scores, 0.5)  # floor(3.5) = 3 of 7 are masked; of the equal ones the first stays
    assert masks["a"].tolist() == [False, True, True] and masks["b"].tolist() == [True, False, True, False]
    masks = highest_rows(scores, 0.6)  # 4.2: four are masked
    assert masks["a"].tolist() == [False, True, True] and masks["b"].tolist() == [True, False, False, False]
    assert all(mask.all() for mask in highest_rows(scores, 0.0).values())


class Store:
    """Forty examples of the tiny vocabulary."""

    def __len__(self):
        return 40

    def batch(self, rows):
        whole = batch_of([5 + row % 9 for row in range(40)], width=16)
        tensors = (whole.input_ids, whole.attention_mask, whole.labels)
        ids, mask, labels = (tensor[torch.from_numpy(np.asarray(rows))] for tensor in tensors)
        return SimpleNamespace(
            input_ids=ids,
            attention_mask=mask,
            labels=labels,
            segment_ids=None,
            lower=None,
            targets=None,
            to=lambda _: self.batch(rows),
        )


DATA = SimpleNamespace(train=SimpleNamespace(store=Store()), kind="classification")


def reference(model, power):
    """Mean over the mini-batches of a function of weight and gradient, for every weight."""
    sums = {}
    for rows in draw_rows(40, 8, (0, 1, 2)):
        model.zero_grad()
        model(DATA.train.store.batch(rows)).loss.backward()
        for name, p in model.named_parameters():
            gradient = torch.zeros_like(p) if p.grad is None else p.grad  # the unused pooler has none
            value = (p * gradient) ** 2 if power == "taylor" else gradient**2
            sums[name] = sums.get(name, 0) + value.detach() / MINI_BATCHES
    model.zero_grad()
    return sums


@pytest.mark.parametrize("micro_batch", [None, 3])
def test_taylor_scores_add_up_rows_and_columns_of_a_head_and_of_a_neuron(micro_batch):
    model = tiny_task_model("bert").double()
    terms = reference(model, "taylor")
    model.train()  # dropout is left out of the scores, and comes back afterwards
    train = TrainSpec(batch_size=8, micro_batch=micro_batch)
    heads, neurons = taylor(model, layout_of(model.backbone), DATA, train, (0, 1, 2))
    assert model.training and all(p.grad is None and p.requires_grad for p in model.parameters())
    for layer in range(4):
        of = {n: v for n, v in terms.items() if f"layer.{layer}." in n and n.endswith("weight")}
        by_name = {name.split(f"layer.{layer}.")[1].removesuffix(".weight"): v for name, v in of.items()}
        rows = [by_name[f"attention.self.{name}"].view(HEADS, SIZE, 32) for name in ("query", "key", "value")]
        expected = sum(part.sum((1, 2)) for part in rows)
        expected += by_name["attention.output.dense"].view(32, HEADS, SIZE).sum((0, 2))
        torch.testing.assert_close(heads[layer], expected)
        expected = by_name["intermediate.dense"].sum(1) + by_name["output.dense"].sum(0)
        torch.testing.assert_close(neurons[layer], expected)


def test_taylor_scores_of_a_fused_map_take_each_head_s_three_parts():
    model = tiny_task_model("gpt2").double()
    terms = reference(model, "taylor")
    heads, neurons = taylor(model, layout_of(model.backbone), DATA, TrainSpec(batch_size=8), (0, 1, 2))
    block = "backbone.model.h.2."
    expected = terms[block + "attn.c_attn.weight"].view(32, 3, HEADS, SIZE).sum((0, 1, 3))
    expected = expected + terms[block + "attn.c_proj.weight"].view(HEADS, SIZE, 32).sum((1, 2))
    torch.testing.assert_close(heads[2], expected)
    expected = terms[block + "mlp.c_fc.weight"].sum(0) + terms[block + "mlp.c_proj.weight"].sum(1)
    torch.testing.assert_close(neurons[2], expected)


@pytest.mark.parametrize(("model_type", "row"), [("bert", 0), ("gpt2", 1), ("llama", 0)])
def test_fisher_scores_add_up_squared_gradients_by_row_in_two_pools(model_type, row):
    model = tiny_task_model(model_type).double()
    terms = reference(model, "fisher")
    pools = fisher_rows(model, layout_of(model.backbone), DATA, TrainSpec(batch_size=8), (0, 1, 2))
    attention, feed_forward = pools
    assert all("attn" in name or "attention" in name for name in attention)
    assert not any("attn" in name or "attention" in name for name in feed_forward)
    per_layer = {"bert": (4, 2), "gpt2": (2, 2), "llama": (4, 3)}[model_type]
    assert [len(pool) for pool in pools] == [4 * n for n in per_layer]
    for name, rows in {**attention, **feed_forward}.items():
        torch.testing.assert_close(rows, terms[name].sum(1 - row))


def test_rows_are_drawn_from_the_seed_without_replacement_within_a_mini_batch():
    drawn = draw_rows(40, 8, (3, 1, 0))
    assert len(drawn) == 10 and all(len(set(rows)) == 8 for rows in drawn)
    again, other = draw_rows(40, 8, (3, 1, 0)), draw_rows(40, 8, (3, 2, 0))
    assert np.array_equal(drawn, again) and not np.array_equal(drawn, other)
    assert all(len(rows) == 5 for rows in draw_rows(5, 8, (0, 0, 0)))


def test_a_layer_keeps_fifteen_hundredths_of_its_groups():
    # BERT's 12 heads and 3,072 neurons: 10.2 and 2,611.2 are 85 %
    assert [most_of_a_layer(size) for size in (12, 20, 100, 3072)] == [10, 17, 85, 2611]


def test_more_groups_than_the_cap_lets_go_are_refused_at_the_start(tmp_path):
    # 4 layers of 4 heads: at most floor(0.85 * 4) = 3 of each go, 12 of 16; 0.84 asks for 13, 0.8 for 12.
    run = compose_tiny(tmp_path, "method=recap", "method.prune=0.84", "method.rounds=0")
    with pytest.raises(ConfigError, match=r"method\.prune=0\.84 .* 13 of 16 heads .* 3 of .* at most 12"):
        execute(run, records.Store(run.results_dir, run.outputs_dir))
    assert not (tmp_path / "outputs" / "records").exists()
    run = compose_tiny(tmp_path, "method=recap", "method.prune=0.8", "method.rounds=0")
    record = execute(run, records.Store(run.results_dir, run.outputs_dir))
    assert record.status == "done" and record.checks.failures() == []
    assert record.model.facts["pruned_heads"] == 12 and record.model.facts["pruned_neurons"] == 204


@pytest.mark.parametrize(("free", "held"), [("null", True), ("false", True), ("true", False)])
@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_s_head_is_held_back_with_the_embeddings_tied_or_not(tmp_path, free, held, tied):
    model = language_model("gpt2", tie_word_embeddings=tied)
    assert ("head.weight" in dict(model.named_parameters())) is not tied
    run = generation_run(tmp_path, "method=recap", f"method.free_embeddings={free}")
    prep = build_method(run).prepare(model, DATA, SimpleNamespace(device=torch.device("cpu")))
    free_names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    outside = {"backbone.model.wte.weight", "backbone.model.wpe.weight", *(() if tied else ("head.weight",))}
    assert free_names & outside == (set() if held else outside)
    # 4 layers less 2 of 16 heads and 87 of 512 neurons (floor(0.17 n)), and the final norm; then words,
    # positions and, where it is another matrix, the head.
    head_group, neuron = 3 * (32 * 8 + 8) + 8 * 32, 32 + 1 + 32
    layers = 4 * GPT2_LAYER - 2 * head_group - 87 * neuron + 2 * 32
    assert prep.expected_trainable == layers + (0 if held else (60 + 40 + (0 if tied else 60)) * 32)
