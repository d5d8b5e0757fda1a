"""The proof in every record fails where it should."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from layertune.training import train
from layertune.training.proof import Engagement, matches_selection, parameter_facts


def test_an_honest_run_passes(prepared):
    case = prepared("method.k=2")
    proof = Engagement(case.model)
    checks = proof.check(case.run, case.model, case.data, case.prep, train(*case.parts))
    assert checks.failures() == []
    assert (checks.frozen_unchanged, checks.trained_changed, checks.trainable_matches_selection) == (
        True,
    ) * 3
    assert checks.beats_majority is None  # smoke


def test_a_frozen_tensor_that_moved_is_seen(prepared):
    case = prepared()
    proof = Engagement(case.model)
    outcome = train(*case.parts)
    frozen = next(p for p in case.model.parameters() if not p.requires_grad)
    with torch.no_grad():
        frozen.view(-1)[0].add_(1e-6)
    assert proof.check(case.run, case.model, case.data, case.prep, outcome).failures() == ["frozen_unchanged"]


def test_a_trained_tensor_that_did_not_move_is_seen(prepared):
    case = prepared()
    proof = Engagement(case.model)
    stuck = case.model.backbone.layers[case.prep.layers[0] - 1].attention.output.dense.weight
    before = stuck.detach().clone()
    outcome = train(*case.parts)
    with torch.no_grad():
        stuck.copy_(before)
    assert proof.check(case.run, case.model, case.data, case.prep, outcome).failures() == ["trained_changed"]


def test_a_wrong_count_or_a_wrong_layer_is_seen(prepared):
    case = prepared("method.k=2")
    assert matches_selection(case.model, case.prep)
    assert not matches_selection(case.model, dataclasses.replace(case.prep, expected_trainable=1))
    others = tuple(sorted({1, 2, 3, 4} - set(case.prep.layers)))
    assert not matches_selection(case.model, dataclasses.replace(case.prep, layers=others))


def test_the_majority_is_beaten_only_above_it(prepared):
    case = prepared("protocol=quick", "protocol.train_examples=16", "protocol.eval_examples=40")
    proof, outcome = Engagement(case.model), train(*case.parts)
    store = case.data.train.store  # of one class alone: what is commonest in training does not matter
    one_class = dataclasses.replace(store, labels=np.zeros_like(store.labels))
    data = dataclasses.replace(case.data, train=dataclasses.replace(case.data.train, store=one_class))
    for accuracy, expected in ((0.5, False), (0.525, True)):  # 20 of 40 are positive
        told = dataclasses.replace(outcome, last={"demo": {"accuracy": accuracy}})
        assert proof.check(case.run, case.model, data, case.prep, told).beats_majority is expected


def test_parameters_are_counted_by_place(prepared):
    full = parameter_facts(prepared("method=full").model, prepared("method=full").prep)
    assert full["lowest_trained_layer"] == 0
    case = prepared("method=top_k", "method.k=2")
    facts = parameter_facts(case.model, case.prep)
    layer = sum(p.numel() for p in case.model.backbone.layers[0].parameters())
    assert facts["trainable"] == {
        "backbone": 2 * layer,
        "head": sum(p.numel() for p in case.model.head.parameters()),
        "added": 0,
    }
    assert facts["lowest_trained_layer"] == 3
    case = prepared("method=head_only")
    assert parameter_facts(case.model, case.prep)["lowest_trained_layer"] is None
