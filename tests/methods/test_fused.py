"""A fused map acts like three separate matrices, each with an update or gain; layouts written out here."""

from __future__ import annotations

import pytest
import torch
from added_cases import added, insert, shake
from tiny_models import batch_of, tiny_task_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from layertune.methods.fused import FusedGains, FusedLayout, FusedLora

WIDTH, HEADS = 32, 4
# Rows of the fused output that hold query, key and value.
THIRDS = {part: list(range(i * 32, i * 32 + 32)) for i, part in enumerate(("query", "key", "value"))}
PER_HEAD = {  # DeBERTa v1: 8 rows of query, 8 of key, 8 of value, then the next head
    part: [head * 24 + i * 8 + row for head in range(4) for row in range(8)]
    for i, part in enumerate(("query", "key", "value"))
}
LAYOUTS = {"gpt2": (FusedLayout(1), THIRDS), "deberta": (FusedLayout(HEADS), PER_HEAD)}
FUSED = ["gpt2", "deberta"]


def fused_map(model_type: str) -> nn.Module:
    projection = Conv1D(3 * WIDTH, WIDTH) if model_type == "gpt2" else nn.Linear(WIDTH, 3 * WIDTH, bias=False)
    shake(list(projection.parameters()))
    return projection


def separate(projection: nn.Module, rows: dict[str, list[int]]) -> dict[str, nn.Linear]:
    """Three linear maps with the rows of a fused one."""
    weight = projection.weight.T if isinstance(projection, Conv1D) else projection.weight
    maps = {}
    for part, indices in rows.items():
        maps[part] = nn.Linear(WIDTH, WIDTH, bias=projection.bias is not None)
        with torch.no_grad():
            maps[part].weight.copy_(weight[indices])
            if projection.bias is not None:
                maps[part].bias.copy_(projection.bias[indices])
    return maps


@pytest.mark.parametrize("model_type", FUSED)
def test_a_fused_lora_equals_a_lora_on_each_separate_matrix(model_type):
    layout, rows = LAYOUTS[model_type]
    projection = fused_map(model_type)
    maps = separate(projection, rows)
    lora = FusedLora(layout, projection, ("query", "value"), r=4, alpha=12.0, dropout=0.1).eval()
    shake(list(lora.parameters()))
    lora.attach(projection)
    inputs = torch.randn(2, 5, WIDTH, requires_grad=True)
    output = projection(inputs)
    for part, linear in maps.items():
        expected = linear(inputs)
        if part != "key":
            a, b = lora.a[part].weight, lora.b[part].weight
            expected = expected + 3.0 * inputs @ a.T @ b.T
        torch.testing.assert_close(output[..., rows[part]], expected, rtol=1e-5, atol=1e-5)
    output[..., rows["query"]].sum().backward()
    assert lora.a["query"].weight.grad.any() and not lora.a["value"].weight.grad.any()


@pytest.mark.parametrize("model_type", FUSED)
def test_fused_gains_equal_gains_on_separate_matrices_with_their_biases(model_type):
    layout, rows = LAYOUTS[model_type]
    projection = fused_map(model_type)
    maps = separate(projection, rows)
    late = nn.Parameter(torch.randn(WIDTH))  # added to the values behind the map, as DeBERTa v1 does
    biases = {"value": late} if model_type == "deberta" else None
    gains = FusedGains(layout, projection, ("key", "value"), biases)
    assert {name for name, _ in gains.named_parameters()} == {"gains.key", "gains.value"}
    shake(list(gains.parameters()))
    gains.attach(projection)
    inputs = torch.randn(2, 5, WIDTH)
    output = projection(inputs)
    for part, linear in maps.items():
        found, expected = output[..., rows[part]], linear(inputs)
        if biases and part == "value":
            found, expected = found + late, expected + late
        if part != "query":
            expected = expected * gains.gains[part]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", FUSED)
def test_a_whole_model_with_fused_updates_equals_one_whose_weights_were_changed_by_hand(model_type):
    _, rows = LAYOUTS[model_type]
    model, plain = tiny_task_model(model_type), tiny_task_model(model_type)
    new = added(model, insert("lora", model, r=4))
    shake(new.values())
    for number, block in enumerate(plain.backbone.layers):
        projection = block.attn.c_attn if model_type == "gpt2" else block.attention.self.in_proj
        weight = projection.weight.data.T if model_type == "gpt2" else projection.weight.data
        for part in ("query", "value"):
            (a,) = (p for name, p in new.items() if f".{number}." in name and f"fused.a.{part}" in name)
            (b,) = (p for name, p in new.items() if f".{number}." in name and f"fused.b.{part}" in name)
            for row, index in enumerate(rows[part]):
                weight[index] += 2.0 * b[row] @ a
    batch = batch_of([9, 4, 6])
    torch.testing.assert_close(model(batch).logits, plain(batch).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", FUSED)
def test_a_whole_model_with_fused_gains_equals_one_whose_weights_were_scaled_by_hand(model_type):
    _, rows = LAYOUTS[model_type]
    model, plain = tiny_task_model(model_type), tiny_task_model(model_type)
    if model_type == "deberta":  # both random models have biases of zero
        for some in (model, plain):
            shake([block.attention.self.v_bias for block in some.backbone.layers])
    new = added(model, insert("ia3", model))
    shake(new.values())
    for number, block in enumerate(plain.backbone.layers):
        own = {
            name.split(f".{number}.")[1]: p.data.flatten() for name, p in new.items() if f".{number}." in name
        }
        if model_type == "gpt2":
            fused, out = block.attn.c_attn, block.mlp.c_proj
            out.weight.data *= own["mlp.c_proj.ia3_l.default"][:, None]  # Conv1D: [in, out]
            weight, site = fused.weight.data.T, "attn.c_attn"
        else:
            fused, out = block.attention.self.in_proj, block.output.dense
            out.weight.data *= own["output.dense.ia3_l.default"]
            weight, site = fused.weight.data, "attention.self.in_proj"
            block.attention.self.v_bias.data *= own[f"{site}.fused.gains.value"]
        for part in ("key", "value"):
            gain = own[f"{site}.fused.gains.{part}"]
            for row, index in enumerate(rows[part]):
                weight[index] *= gain[row]
                if fused.bias is not None:
                    fused.bias.data[index] *= gain[row]
    batch = batch_of([9, 4, 6])
    torch.testing.assert_close(model(batch).logits, plain(batch).logits, rtol=1e-5, atol=1e-5)


def test_each_part_has_a_dropout_of_its_own_in_training_alone():
    projection = fused_map("gpt2")
    lora = FusedLora(FusedLayout(1), projection, ("query", "value"), r=4, alpha=8.0, dropout=0.5)
    with torch.no_grad():  # the same update for both parts: only the masks can differ
        for module in (lora.a, lora.b):
            module["query"].weight.fill_(0.1)
            module["value"].weight.fill_(0.1)
    inputs, nothing = torch.randn(3, WIDTH), torch.zeros(3, 3 * WIDTH)
    query, _, value = lora(inputs, nothing).split(WIDTH, dim=-1)
    assert not torch.equal(query, value)
    query, key, value = lora.eval()(inputs, nothing).split(WIDTH, dim=-1)
    assert torch.equal(query, value) and not key.any()


@pytest.mark.parametrize("model_type", FUSED)
@pytest.mark.parametrize("kind", [FusedLora, FusedGains])
def test_under_autocast_the_output_keeps_the_type_of_the_map(model_type, kind):
    projection, (layout, _) = fused_map(model_type), LAYOUTS[model_type]
    more = (4, 8.0, 0.0) if kind is FusedLora else ()
    kind(layout, projection, ("query", "value"), *more).attach(projection)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert projection(torch.randn(2, WIDTH)).dtype == torch.bfloat16
