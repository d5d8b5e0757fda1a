"""Scores of other papers, on models small enough for a sheet of paper and against plain loops."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import naive
import numpy as np
import pytest
import torch
from tiny_models import batch_of, tiny_task_model
from torch import nn

from layertune.errors import ScoreError
from layertune.models.heads import initialise
from layertune.scoring import SCORERS

BATCHES = [batch_of([9, 5, 16, 3], seed=1), batch_of([7, 7, 11], seed=2), batch_of([4], seed=3)]
CHECKED = ["bert", "deberta", "gpt2", "llama"]


class OnPaper(nn.Module):
    """A model whose layers leave the given states behind, one example a batch, one token an example.

    Args:
        states: [examples][L + 1] vectors; entry 0 enters layer 1.
        weights: the matrices of each layer.
    """

    def __init__(self, states=(), weights=()):
        super().__init__()
        self.states = torch.tensor(states, dtype=torch.float64)
        layers = [
            nn.ParameterList(nn.Parameter(torch.tensor(matrix, dtype=torch.float32)) for matrix in layer)
            for layer in weights
        ]
        num_layers = len(layers) or self.states.shape[1] - 1
        self.device = torch.device("cpu")
        self.backbone = SimpleNamespace(
            num_layers=num_layers,
            layers=layers,
            run=self.run,
            picker=lambda mask: lambda states: states[:, 0],
        )

    def representatives(self, batch):
        return self.states[batch.indices, 1:]

    def run(self, batch, on_block):
        for layer in range(self.backbone.num_layers):
            before, after = (self.states[batch.indices, entry][:, None] for entry in (layer, layer + 1))
            on_block(layer + 1, before, after)


def examples(number):
    ones = torch.ones(1, 1, dtype=torch.int64)
    batch = batch_of([3])
    return [
        dataclasses.replace(batch, input_ids=ones, attention_mask=ones, indices=np.array([index]))
        for index in range(number)
    ]


def test_block_influence_is_one_minus_the_cosine_of_input_and_output():
    # (1, 0) -> (0, 1): cos 0; (0, 1) -> (3, 4): cos 0.8. Second example: no turn, then half a turn.
    model = OnPaper([[[1, 0], [0, 1], [3, 4]], [[1, 0], [2, 0], [-1, 0]]])
    scores = SCORERS["block_influence"](model, examples(2))
    assert scores.values == pytest.approx([(1 + 0) / 2, (0.2 + 2) / 2])
    assert scores.std == pytest.approx([0.5, 0.9])


def test_the_angular_distance_is_the_angle_of_input_and_output_in_half_turns():
    # 90° and 60°; 0° and 180°: the arc cosines 1/2, 1/3, 0 and 1 of π.
    model = OnPaper([[[1, 0], [0, 1], [math.sqrt(3) / 2, 1 / 2]], [[1, 0], [2, 0], [-1, 0]]])
    scores = SCORERS["angular"](model, examples(2))
    assert scores.values == pytest.approx([1 / 4, (1 / 3 + 1) / 2], abs=1e-6)


def test_linear_cka_of_three_layers_on_paper():
    # Centred features of two dimensions over four examples: layer 1 is (x, y), layer 2 is 5 (y, -x) + 7 (a
    # turn, a scale and a shift change nothing), layer 3 sees x alone. ‖XᵀX‖ of layer 1 is 4 √2, of layer 3 4,
    # ‖X₁ᵀX₃‖² = 16, so their similarity is 16 / (4 √2 · 4) = 1 / √2.
    corners = [(1, 1), (1, -1), (-1, 1), (-1, -1)]
    model = OnPaper([[[0, 0], [x, y], [5 * y + 7, 7 - 5 * x], [x, 0]] for x, y in corners])
    scores = SCORERS["cka"](model, examples(4))
    half = 1 / math.sqrt(2)
    assert np.array(scores.matrix) == pytest.approx(np.array([[1, 1, half], [1, 1, half], [half, half, 1]]))
    assert scores.values == pytest.approx([(1 + half) / 2, (1 + half) / 2, half])


def test_cka_needs_two_examples():
    with pytest.raises(ScoreError, match="two"):
        SCORERS["cka"](OnPaper([[[0, 0], [1, 0], [0, 1]]]), examples(1))


@pytest.mark.parametrize("model_type", CHECKED)
def test_cka_equals_its_form_with_gram_matrices(model_type):
    model = tiny_task_model(model_type)
    with torch.no_grad():
        rows = naive.states_of(model, BATCHES, "representative")
    centre = np.eye(8) - np.ones((8, 8)) / 8
    grams = []
    for layer in range(1, 5):  # HSIC of two layers: the trace of the product of their centred Gram matrices
        features = np.stack([states[layer] for states in rows])
        grams.append(centre @ features @ features.T @ centre)
    hsic = np.array([[np.trace(a @ b) for b in grams] for a in grams])
    expected = hsic / np.sqrt(np.outer(hsic.diagonal(), hsic.diagonal()))
    scores = SCORERS["cka"](model, BATCHES)
    assert np.array(scores.matrix) == pytest.approx(expected, rel=1e-4)
    assert scores.values == pytest.approx((expected.sum(1) - 1) / 3, rel=1e-4)


@pytest.mark.parametrize("tokens", ["all", "representative"])
def test_block_influence_takes_the_layers_of_lowest_input_output_similarity(tokens):
    model = tiny_task_model("bert")
    similar = SCORERS["io_cosine"](model, BATCHES, tokens=tokens).values
    influence = SCORERS["block_influence"](model, BATCHES, tokens=tokens).values
    assert influence == pytest.approx([1 - value for value in similar])


def test_the_weight_norm_is_that_of_all_parameters_of_a_layer():
    model = OnPaper(weights=[[[[3.0, 0.0]], [[0.0, 4.0]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    scores = SCORERS["weight_norm"](model)
    assert scores.values == pytest.approx([5, 2]) and scores.examples == 0


def diagonal(*values, columns=None):
    matrix = np.zeros((len(values), columns or len(values)))
    np.fill_diagonal(matrix, values)
    return matrix.tolist()


def test_the_spectrum_divides_signal_by_noise_by_the_largest_singular_value():
    # Singular values 10, 3, 2, 1, 0: quartiles 1 and 3, σ = 2 / 1.349 = 1.4826, square: the noise ends at
    # 2 σ = 2.965. Signal 10 + 3, noise 2 + 1 + 0: 13 / 3 / 10.
    square = diagonal(10, 3, 2, 1, 0)
    # With 20 columns β = 1/4: the noise ends at 1.5 σ = 2.224, which keeps 3 in the signal here too.
    wide = diagonal(6, 3, 2, 1, 0, columns=20)
    bias = [1.0, 2.0]
    scores = SCORERS["spectrum"](OnPaper(weights=[[square, bias], [square, wide]]))
    assert scores.values == pytest.approx([13 / 30, (13 / 30 + 9 / 3 / 6) / 2], rel=1e-5)
    assert scores.std == pytest.approx([0, (1 / 2 - 13 / 30) / 2], abs=1e-6) and scores.examples == 0


def test_the_edge_of_the_noise_depends_on_the_sides_of_a_matrix():
    # Quartiles 1 and 3 again; 2.5 is noise of a square matrix (edge 2.965) and signal of a wide one (2.224).
    square = SCORERS["spectrum"](OnPaper(weights=[[diagonal(3, 3, 2.5, 1, 1)]])).values
    wide = SCORERS["spectrum"](OnPaper(weights=[[diagonal(3, 3, 2.5, 1, 1, columns=20)]])).values
    assert (square, wide) == (pytest.approx([6 / 4.5 / 3]), pytest.approx([8.5 / 2 / 3]))


def test_a_matrix_without_noise_has_a_finite_ratio():
    values = diagonal(4, 4, 4, 4)  # no spread, so no noise: the smallest stands for it
    assert SCORERS["spectrum"](OnPaper(weights=[[values]])).values == pytest.approx([12 / 4 / 4])


@pytest.mark.parametrize("model_type", CHECKED)
def test_fisher_squares_the_gradient_of_each_example(model_type):
    plain = tiny_task_model(model_type)
    initialise(plain.head, 0)
    expected = np.zeros(4)
    for batch in BATCHES:
        for row in range(len(batch)):
            plain.zero_grad()
            plain(batch.row(row)).loss.backward()
            for layer, block in enumerate(plain.backbone.layers):
                grads = [weight.grad for weight in block.parameters() if weight.grad is not None]
                expected[layer] += sum(float(grad.double().square().sum()) for grad in grads) / 8
    scores = SCORERS["fisher"](tiny_task_model(model_type), BATCHES)
    assert scores.values == pytest.approx(expected, rel=1e-4) and scores.examples == 8


def test_fisher_on_paper():
    # One weight w = 1 per layer, loss (w₁ + 2 w₂) x: gradients x and 2 x; mean of squares over x = 1, 3.
    model = OnPaper(weights=[[[1.0]], [[1.0]]])
    first, second = (layer[0] for layer in model.backbone.layers)
    model.with_fresh_head = lambda seed: scored
    scored = nn.Module()
    scored.weights, scored.device = nn.ParameterList([first, second]), model.device
    scored.forward = lambda batch: SimpleNamespace(
        loss=((first + 2 * second) * (1.0 + 2.0 * float(batch.indices[0]))).sum()
    )
    assert SCORERS["fisher"](model, examples(2)).values == pytest.approx([5, 20])
