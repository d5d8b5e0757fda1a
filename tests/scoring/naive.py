"""Every score again, as double loops over `output_hidden_states`: slow, obvious, in float64."""

from __future__ import annotations

import numpy as np

from layertune.models import TaskModel


def token_positions(model: TaskModel, batch, row: int, tokens: str) -> list[int]:
    length = int(batch.attention_mask[row].sum())
    if tokens == "all":
        return list(range(length))
    return [length - 1 if model.backbone.representative_token == "last" else 0]


def states_of(model: TaskModel, batches, tokens: str) -> list[list[np.ndarray]]:
    """[tokens][L + 1] vectors of the wanted tokens of all examples; entry 0 is the embedding output."""
    rows = []
    for batch in batches:
        output = model.backbone.model(**model.backbone.inputs(batch), output_hidden_states=True)
        for row in range(len(batch)):
            for token in token_positions(model, batch, row, tokens):
                rows.append([state[row, token].double().numpy() for state in output.hidden_states])
    return rows


def cosine_of(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / ((a @ a) ** 0.5 * (b @ b) ** 0.5))


def distance_of(a: np.ndarray, b: np.ndarray) -> float:
    return -float(((a - b) @ (a - b)) ** 0.5)


def between_layers(rows: list[list[np.ndarray]], similarity) -> tuple[list[float], list[list[float]]]:
    """Scores and matrix from the representative vectors."""
    num_layers = len(rows[0]) - 1
    matrix = [[0.0] * num_layers for _ in range(num_layers)]
    for states in rows:
        for i in range(num_layers):
            for j in range(num_layers):
                matrix[i][j] += similarity(states[i + 1], states[j + 1]) / len(rows)
    scores = [
        sum(row[j] for j in range(num_layers) if j != i) / (num_layers - 1) for i, row in enumerate(matrix)
    ]
    return scores, matrix


def io_cosine(rows: list[list[np.ndarray]]) -> list[float]:
    layers = range(1, len(rows[0]))
    return [
        sum(cosine_of(states[layer - 1], states[layer]) for states in rows) / len(rows) for layer in layers
    ]


def feature_variance(rows: list[list[np.ndarray]]) -> list[float]:
    scores = []
    for layer in range(1, len(rows[0])):
        features = np.stack([states[layer] for states in rows])
        mean = features.sum(0) / len(rows)
        scores.append(float(((features - mean) ** 2).sum(0).mean() / len(rows)))
    return scores
