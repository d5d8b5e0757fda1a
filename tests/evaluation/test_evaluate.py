"""Predictions in the split's order, by a model that can be followed by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny_runs import compose_tiny, prepare, with_foreign
from torch import nn

from layertune.evaluation.evaluate import majority_accuracy, predict, score_epoch, score_rest
from layertune.models.task_model import Output
from layertune.runtime import prepare_runtime
from layertune.tasks import Split, TokenStore

FIRST_TOKENS = [2, 0, 1, 1, 0, 2, 2]
LENGTHS = [3, 9, 1, 5, 2, 8, 4]


class FirstToken(nn.Module):
    """Answers with the first token of each row; for regression, with its tenth."""

    def __init__(self, kind="classification"):
        super().__init__()
        self.kind = kind
        self.dropout = nn.Dropout(0.9)
        self.batch_sizes = []

    def forward(self, batch):
        self.batch_sizes.append(len(batch))
        first = batch.input_ids[:, 0]
        if self.kind == "regression":
            logits = first[:, None].float() / 10
        else:
            logits = self.dropout(nn.functional.one_hot(first, 3).float())
        return Output(logits.sum(), logits)


def split_of(labels):
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    ids = np.full(offsets[-1], 7, dtype=np.int32)
    ids[offsets[:-1]] = FIRST_TOKENS
    return Split("demo", "validation", TokenStore(ids, offsets, None, np.asarray(labels), 0, 0))


@pytest.fixture
def runtime(tmp_path):
    return prepare_runtime(compose_tiny(tmp_path))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_predictions_come_back_in_the_order_of_the_rows(runtime, batch_size):
    model = FirstToken()
    found = predict(model, split_of([0] * 7), runtime, batch_size)
    assert found.tolist() == FIRST_TOKENS
    assert found.dtype == np.int64
    assert max(model.batch_sizes) == min(batch_size, 7) and sum(model.batch_sizes) == 7


def test_a_regression_gives_raw_scores(runtime):
    found = predict(FirstToken("regression"), split_of(np.zeros(7, np.float32)), runtime, 2)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.array(FIRST_TOKENS) / 10, rtol=1e-6)


def test_a_regression_on_a_single_row_is_not_squeezed_away(runtime):
    assert predict(FirstToken("regression"), split_of(np.zeros(7, np.float32)), runtime, 1).shape == (7,)


def test_evaluation_leaves_modes_gradients_and_random_state_alone(tmp_path):
    case = prepare(compose_tiny(tmp_path))
    case.model.train()
    case.model.backbone.layers[0].eval()  # as a method may have set it
    modes = [module.training for module in case.model.modules()]
    state = torch.get_rng_state()
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    score_epoch(case.run, case.model, case.data, case.runtime)
    assert [module.training for module in case.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)  # how often one evaluates changes no training
    assert all(parameter.grad is None for parameter in case.model.parameters())
    assert all(torch.equal(before[name], value) for name, value in case.model.state_dict().items())


def test_scores_are_the_task_s_metrics_of_these_predictions(tmp_path, runtime):
    case = prepare(compose_tiny(tmp_path))
    labels = [2, 0, 1, 0, 0, 2, 1]  # five of seven right
    data = dataclasses.replace(case.data, evals={"demo": split_of(labels)})
    scores = score_epoch(case.run, FirstToken(), data, runtime)
    # f1 by class: 0 -> 2·2/(2+3), 1 -> 2·1/(2+2), 2 -> 2·2/(3+2)
    assert scores == {
        "demo": {"accuracy": pytest.approx(5 / 7), "f1_macro": pytest.approx((0.8 + 0.5 + 0.8) / 3)}
    }


def test_own_and_foreign_splits_are_scored_apart_each_by_its_own_metrics(tmp_path, runtime):
    case = with_foreign(prepare(compose_tiny(tmp_path)))
    foreign = dataclasses.replace(case.run.task.foreign["other"], metric="f1_macro", metrics=())
    run = dataclasses.replace(case.run, task=dataclasses.replace(case.run.task, foreign={"other": foreign}))
    data = dataclasses.replace(
        case.data, evals={"demo": split_of(FIRST_TOKENS), "other": split_of([2, 0, 1, 1, 0, 2, 0])}
    )
    assert score_epoch(run, FirstToken(), data, runtime) == {"demo": {"accuracy": 1.0, "f1_macro": 1.0}}
    found = score_rest(run, FirstToken(), data, runtime, 1)
    # f1 by class: 0 -> 2·2/(2+3), 1 -> 1, 2 -> 2·2/(3+2)
    assert found == {"other": {"f1_macro": pytest.approx((0.8 + 1.0 + 0.8) / 3)}}


def test_the_majority_is_the_commonest_class_of_the_split():
    assert majority_accuracy(split_of([0, 1, 1, 1, 2, 0, 1])) == 4 / 7
    assert majority_accuracy(split_of([5] * 7)) == 1.0
