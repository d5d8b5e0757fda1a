"""Few-bit storage: formats by hand, gradients of what was stored, and bytes that are really saved."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_models import DECODERS, ENCODERS, batch_of, tiny_task_model
from tiny_runs import compose_tiny

from layertune.errors import ConfigError
from layertune.methods import build_method, quantised
from layertune.methods.quantised import (
    GELU_INPUT,
    SIGNED,
    UNSIGNED,
    Activation,
    Meta,
    Product,
    Softmax,
    SparseNorm,
    quantise,
)


def stored(form, values):
    tensor = torch.tensor(values)
    return form.unpack(form.pack(tensor), Meta(tensor.shape, tensor.dtype)).tolist()


def test_four_bits_are_a_sign_two_integer_bits_and_one_of_fraction():
    assert stored(GELU_INPUT, [0.0, 0.2, 0.3, -1.6, 3.4, 9.0, -9.0]) == [0.0, 0.0, 0.5, -1.5, 3.5, 3.5, -4.0]
    assert GELU_INPUT.bits == 4 and GELU_INPUT.pack(torch.zeros(3, 5)).nbytes == 8  # two to a byte


def test_eight_bits_are_sixteenths_up_to_eight_or_shares_of_256():
    assert stored(SIGNED, [0.03, 0.04, -1.99, 100.0, -100.0]) == [0.0, 0.0625, -2.0, 7.9375, -8.0]
    assert stored(UNSIGNED, [0.0, 0.3, 0.999, 1.0]) == [0.0, 77 / 256, 255 / 256, 255 / 256]
    assert SIGNED.bits == UNSIGNED.bits == 8


def gradients(function, *values):
    inputs = [value.clone().requires_grad_() for value in values]
    result = function(*inputs)
    weight = torch.arange(result.numel(), dtype=result.dtype).reshape(result.shape).cos()
    return result, torch.autograd.grad((result * weight).sum(), inputs), weight


def test_an_activation_s_gradient_is_taken_at_the_stored_input():
    values = torch.tensor([0.6, -1.2, 2.9])
    result, (gradient,), weight = gradients(lambda x: Activation.apply(x, F.gelu), values)
    assert torch.equal(result, F.gelu(values))
    at = torch.tensor([0.5, -1.0, 3.0])
    normal = torch.distributions.Normal(0.0, 1.0)
    slope = normal.cdf(at) + at * normal.log_prob(at).exp()
    torch.testing.assert_close(gradient, weight * slope)


def test_a_softmax_s_gradient_uses_the_stored_output():
    scores = torch.tensor([[0.0, 1.0, 3.0]])
    result, (gradient,), weight = gradients(lambda x: Softmax.apply(x, -1), scores)
    assert torch.equal(result, scores.softmax(-1))
    kept = (result * 256).round() / 256
    torch.testing.assert_close(gradient, kept * (weight - (weight * kept).sum()))


def test_a_product_s_gradients_use_the_stored_factors_and_add_up_over_what_was_broadcast():
    left, right = torch.randn(2, 3, 4, 5), torch.randn(1, 3, 5, 6)
    result, (of_left, of_right), weight = gradients(
        lambda a, b: Product.apply(a, b, SIGNED, None), left, right
    )
    assert torch.equal(result, left @ right)
    torch.testing.assert_close(of_left, weight @ right.mT)
    kept = (left * 16).round() / 16
    torch.testing.assert_close(of_right, (kept.mT @ weight).sum(0, keepdim=True))


def test_a_frozen_norm_keeps_the_largest_tenth_of_its_normalised_values():
    torch.manual_seed(0)
    values, gain, shift = torch.randn(3, 20), torch.randn(20), torch.randn(20)
    result, (gradient, of_shift), weight = gradients(
        lambda x, b: SparseNorm.apply(x, gain, b, 1e-5), values, shift
    )
    torch.testing.assert_close(result, F.layer_norm(values, (20,), gain, shift, 1e-5))
    torch.testing.assert_close(of_shift, weight.sum(0))
    normalised = F.layer_norm(values, (20,), None, None, 1e-5)
    smallest_kept = normalised.abs().sort(-1, descending=True).values[:, 1:2]  # 2 of 20
    kept = torch.where(normalised.abs() >= smallest_kept, normalised, torch.zeros(()))
    scaled = weight * gain
    scale = (values.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()
    expected = scale * (
        scaled - scaled.mean(-1, keepdim=True) - kept * (scaled * kept).mean(-1, keepdim=True)
    )
    torch.testing.assert_close(gradient, expected)


def saved_bytes(model, batch):
    """What the forward pass leaves for the backward pass, parameters aside; and the gradients."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(batch)
    output.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return output, sum(size for size, _ in kept.values()), gradients


def freeze_norms(model):
    for module in model.modules():
        if "norm" in type(module).__name__.lower() and getattr(module, "weight", None) is not None:
            module.weight.requires_grad_(False)


@pytest.mark.parametrize("model_type", [*ENCODERS, *DECODERS])
def test_every_architecture_computes_the_same_from_far_fewer_bytes(model_type):
    model = tiny_task_model(model_type)
    freeze_norms(model)
    batch = batch_of([20, 24, 30, 32])
    exact, before, of_exact = saved_bytes(model, batch)
    quantise(model)
    output, after, of_stored = saved_bytes(model, batch)
    torch.testing.assert_close(output.logits, exact.logits, rtol=1e-5, atol=1e-5)
    assert after < 0.8 * before  # the linear maps' own inputs stay, as in the source, and RMS norms
    ours, theirs = (torch.cat([g.flatten() for g in of.values()]) for of in (of_stored, of_exact))
    assert 0.9 < F.cosine_similarity(ours, theirs, dim=0) < 0.99999
    with torch.no_grad():
        assert torch.equal(model(batch).logits, exact.logits)  # evaluation runs the modules' own code


@pytest.mark.parametrize("model_type", [*ENCODERS, *DECODERS])
def test_stored_exactly_the_gradients_are_exact(model_type, monkeypatch):
    monkeypatch.setattr(quantised.FixedPoint, "pack", lambda _, values: values.detach().clone())
    monkeypatch.setattr(quantised.FixedPoint, "unpack", lambda _, codes, like: codes)
    monkeypatch.setattr(quantised, "KEPT_BY_FROZEN_NORM", 1.0)
    model = tiny_task_model(model_type)
    freeze_norms(model)
    batch = batch_of([20, 24, 30, 32])
    _, _, expected = saved_bytes(model, batch)
    quantise(model)
    _, _, gradients = saved_bytes(model, batch)
    assert gradients.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            gradients[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_second_map_stores_eight_bits_while_it_trains_and_nothing_while_frozen():
    model = tiny_task_model("bert")
    quantise(model)
    batch, maps = batch_of([32] * 8), [layer.output.dense for layer in model.backbone.layers]
    _, training, _ = saved_bytes(model, batch)
    for module in maps:
        module.weight.requires_grad_(False)
    _, frozen, _ = saved_bytes(model, batch)
    assert training - frozen == 4 * 8 * 32 * 64  # layers x rows x tokens x inner width, a byte each


def test_sixteen_bit_autocast_works():
    model = tiny_task_model("bert")
    freeze_norms(model)
    quantise(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(batch_of([20, 24])).loss
    loss.backward()
    assert torch.isfinite(loss) and all(
        torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None
    )


def test_storing_in_few_bits_and_storing_nothing_exclude_each_other(tmp_path):
    options = ("method=slimfit", "method.quantise=true", "train.activation_checkpointing=true")
    with pytest.raises(ConfigError, match="choose one"):
        build_method(compose_tiny(tmp_path, *options))
