"""Dropout with masks of bytes is dropout: its shares, its scale, its gradient, its generator, and its end."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from layertune.fast.masks import _random_levels, use_byte_masks, use_own_masks


@pytest.fixture
def dropout() -> nn.Dropout:
    module = nn.Dropout(0.1)
    use_byte_masks(module)
    return module


def test_a_tenth_is_dropped_and_the_rest_scaled_so_that_the_mean_stays(dropout):
    torch.manual_seed(0)
    found = dropout(torch.ones(1000, 1000))
    zeros, values = (found == 0).double().mean().item(), found.unique().tolist()
    assert zeros == pytest.approx(0.1, abs=0.001)  # three standard errors of a million draws
    assert values == pytest.approx([0.0, 1 / 0.9], abs=1e-4)
    assert found.double().mean().item() == pytest.approx(1.0, abs=0.001)


def test_elements_and_rows_are_dropped_independently(dropout):
    torch.manual_seed(0)
    kept = dropout(torch.ones(500, 400)).bool().double()
    for shift in (1, 2, 3, 4, 5):  # four elements share a draw of the generator
        pairs = torch.corrcoef(torch.stack([kept[:, shift:].flatten(), kept[:, :-shift].flatten()]))
        assert abs(float(pairs[0, 1])) < 0.01
    assert abs(float(torch.corrcoef(torch.stack([kept[0], kept[1]]))[0, 1])) < 0.2


def test_the_gradient_goes_where_the_values_went(dropout):
    states = torch.randn(64, 48, dtype=torch.float64, requires_grad=True)
    found = dropout(states)
    found.sum().backward()
    assert torch.equal(states.grad == 0, found == 0)
    torch.testing.assert_close(states.grad * states, found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_follows_the_seed_and_keeps_type_and_shape(dropout, dtype):
    states = torch.ones(3, 5, 7, dtype=dtype)  # 105: not a multiple of the four of a draw
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(dropout(states))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    assert results[0].dtype == dtype and results[0].shape == states.shape


def test_all_sixteen_bits_of_every_level_are_random():
    torch.manual_seed(0)
    levels = _random_levels(40_000).long() + 32768
    for lane in range(4):
        bits = torch.stack([(levels[lane::4] >> bit) & 1 for bit in range(16)])
        assert (bits.double().mean(1) - 0.5).abs().max() < 0.02  # four standard errors


def test_evaluation_drops_nothing_and_the_module_becomes_its_own_again(dropout):
    states = torch.randn(8, 8)
    assert dropout.eval()(states) is states
    copied = copy.deepcopy(dropout).train()
    torch.manual_seed(0)
    assert (copied(torch.ones(100)) == 0).any()  # a copy works on itself: it is in training, the first is not
    use_own_masks(dropout)
    assert "forward" not in vars(dropout)
    torch.manual_seed(0)
    expected = nn.functional.dropout(states, 0.1)
    torch.manual_seed(0)
    assert torch.equal(dropout.train()(states), expected)


def test_other_kinds_and_no_dropout_at_all_are_left_alone():
    shares = (0.0, 1e-6, 1 - 1e-6, 1.0)  # sixteen bits cannot tell the two in the middle from 0 and 1
    model = nn.Sequential(nn.Dropout1d(0.5), *(nn.Dropout(share) for share in shares), nn.Dropout(0.5))
    use_byte_masks(model)
    assert ["forward" in vars(module) for module in model] == [False] * 5 + [True]
