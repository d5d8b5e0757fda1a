"""Which epoch is best, and foreign splits at its weights."""

from __future__ import annotations

import torch

from layertune.config import TaskSpec
from layertune.training.best import BestEpoch


def offered(model, scores, **task):
    best = BestEpoch(TaskSpec(name="t", metric="f1_macro", **task), keep_weights=True)
    for epoch, (f1, accuracy) in enumerate(scores, start=1):
        with torch.no_grad():
            model.weight.fill_(epoch)
        best.offer(epoch, {"t": {"f1_macro": f1, "accuracy": accuracy}}, model, ["weight"])
    return best


def test_the_earliest_of_equals_is_best():
    best = offered(torch.nn.Linear(1, 1), [(0.5, 0), (0.8, 0), (0.8, 0), (0.7, 0)])
    assert best.epoch == 2


def test_best_by_decides_where_it_is_named():
    best = offered(torch.nn.Linear(1, 1), [(0.9, 0.1), (0.2, 0.6)], best_by="accuracy")
    assert (best.epoch, best.metrics["t"]["f1_macro"]) == (2, 0.2)


def test_an_undefined_score_is_never_better():
    best = offered(torch.nn.Linear(1, 1), [(None, 0), (-0.3, 0), (None, 0)])
    assert best.epoch == 2


def test_the_best_weights_are_lent_and_the_last_ones_returned():
    model = torch.nn.Linear(1, 1)
    best = offered(model, [(0.5, 0), (0.9, 0), (0.1, 0)])
    with best.weights(model):
        assert model.weight.item() == 2
    assert model.weight.item() == 3


def test_a_run_that_goes_on_without_keeping_its_model_keeps_the_weights_of_the_best_epoch_all_the_same():
    model = torch.nn.Linear(1, 1)
    interrupted = offered(model, [(0.5, 0)])
    resumed = BestEpoch(TaskSpec(name="t", metric="f1_macro"), keep_weights=False)
    resumed.load(interrupted.state())
    with torch.no_grad():
        model.weight.fill_(7)
    assert resumed.offer(2, {"t": {"f1_macro": 0.9}}, model, ["weight"])
    assert resumed.kept["weight"].item() == 7
