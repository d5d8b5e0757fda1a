"""RECAP in training: what trains, what holds still, where updates land, what is carried, what is counted."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from test_methods import BERT_LAYER, HEAD, generation_run
from tiny_runs import compose_tiny, prepare_with, weights

from layertune.errors import ConfigError
from layertune.methods import build_method, count
from layertune.methods.recap import Recap, scores
from layertune.methods.recap.prune import positions
from layertune.methods.recap.scores import draw_rows, taylor
from layertune.training import loop, train
from layertune.training.proof import Engagement, measured_facts

EMBEDDINGS = 512 * 32 + 512 * 32 + 2 * 32 + 2 * 32  # words, positions, segments, the norm
HEAD_GROUP = 3 * (8 * 32 + 8) + 8 * 32  # 8 rows with biases of three maps, 8 columns
NEURON = 32 + 1 + 32

# 64 rows in batches of 8: 16 steps in two epochs; a quarter of 16 heads and of 256 neurons goes.
OPTIONS = ("train.batch_size=8", "train.epochs=2", "train.learning_rate=1e-2", "method.prune=0.25")


@pytest.fixture
def prepared(prepared):
    return partial(prepared, "method=recap", *OPTIONS)


class Noting(Recap):
    """Keeps, of every phase: both models before and after, what was carried, Adam's state."""

    def start_phase(self, model, phase):
        self.model, before = model, weights(model)
        trained = super().start_phase(model, phase)
        self.notes.append({"whole": before, "pruned": weights(trained), "kept": self.kept})
        self.notes[-1] |= {"masks": dict(self.masks), "places": dict(self.places)}
        return trained

    def optimizer_ready(self, optimizer, phase):
        super().optimizer_ready(optimizer, phase)
        names = {p: name for name, p in self.trained.named_parameters()}
        state = {names[p]: {k: v.clone() for k, v in of.items()} for p, of in optimizer.state.items()}
        self.notes[-1]["carried"] = state

    def end_phase(self, model, optimizer, phase):
        note = self.notes[-1]
        note["after"] = weights(model)
        names = {p: name for name, p in model.named_parameters()}
        note["adam"] = {names[p]: {k: v.clone() for k, v in of.items()} for p, of in optimizer.state.items()}
        super().end_phase(model, optimizer, phase)
        note["whole after"] = weights(self.model)
        note["moments"] = {n: {k: v.clone() for k, v in of.items()} for n, of in self.moments.kept.items()}


def noted(case):
    method = Noting(case.run)
    method.notes = []
    prep = method.prepare(case.model, case.data, case.runtime)
    proof = Engagement(case.model)
    outcome = loop._Loop(case.run, case.model, case.data, method, case.runtime, case.track).train()
    checks = proof.check(case.run, case.model, case.data, prep, outcome)
    return method.notes, prep, outcome, checks


def rows_that_train(note, name):
    """A matrix's rows, as a column of bool; everything of other tensors."""
    mask = note["masks"].get(name)
    return torch.ones((), dtype=torch.bool) if mask is None else mask[:, None]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_masked_rows_do_not_move_not_even_by_momentum_and_the_others_do(prepared, precision):
    notes, _, _, checks = noted(prepared("method.rounds=3", f"train.precision={precision}"))
    assert len(notes) == 4 and checks.failures() == [] and checks.frozen_unchanged is not False
    for note in notes:
        assert len(note["masks"]) == 4 * 6  # four maps of attention, two of the feed-forward network
        for name, before in note["pruned"].items():
            moved = note["after"][name] != before
            trains = rows_that_train(note, name)
            assert not (moved & ~trains).any(), name
            if name in note["masks"]:
                assert (moved.any(1) == note["masks"][name]).float().mean() > 0.9, name  # but for dead rows
            elif "embeddings" not in name:
                assert moved.any(), name
    assert any(
        not torch.equal(a, b) for a, b in zip(*(notes[i]["masks"].values() for i in (0, 1)), strict=True)
    )


def test_updates_land_where_they_came_from_and_all_else_stays_bit_for_bit(prepared):
    (note, *_), _, _, _ = noted(prepared("method.rounds=1"))
    first, second = "attention.self.query.weight", "attention.output.dense.weight"
    heads, neurons = note["kept"]
    assert sum(map(len, heads)) == 12 and sum(map(len, neurons)) == 192
    for layer in range(4):
        prefix = f"backbone.model.encoder.layer.{layer}."
        entries = [8 * head + i for head in heads[layer] for i in range(8)]
        expected = {
            name: note["whole"][prefix + name].clone() for name in (first, second, "output.dense.weight")
        }
        expected[first][entries, :] = note["after"][prefix + first]
        expected[second][:, entries] = note["after"][prefix + second]
        expected["output.dense.weight"][:, list(neurons[layer])] = note["after"][
            prefix + "output.dense.weight"
        ]
        for name, value in expected.items():
            assert torch.equal(note["whole after"][prefix + name], value), name
    for name, before in note["whole"].items():
        after = note["whole after"][name]
        may_move = torch.zeros(before.shape, dtype=torch.bool)
        dim, where = note["places"].get(name, (0, torch.arange(len(before))))
        inside = rows_that_train(note, name).expand(note["pruned"][name].shape)
        may_move.index_copy_(dim, where, inside.contiguous())
        assert torch.equal(after[~may_move], before[~may_move]), name


def test_the_groups_that_go_are_those_of_the_lowest_taylor_score(prepared):
    case = prepared("method.rounds=1")
    scores = taylor(case.model, case.method.layout, case.data, case.run.train, (0, 0, 1))
    (note, *_), _, _, _ = noted(case)
    for pool, kept in zip(scores, note["kept"], strict=True):
        everyone = sorted(
            (float(score), layer, g) for layer, of in enumerate(pool) for g, score in enumerate(of)
        )
        gone = {(layer, g) for _, layer, g in everyone[: len(everyone) // 4]}
        assert gone == {
            (layer, g) for layer, of in enumerate(pool) for g in range(len(of)) if g not in kept[layer]
        }


def test_moments_return_with_their_weights_and_decay_where_nothing_was_updated(prepared):
    (first, second, *_), _, _, _ = noted(prepared("method.rounds=2"))
    assert first["carried"] == {}
    for name, of in first["adam"].items():
        dim, where = first["places"].get(name, (0, torch.arange(len(first["whole"][name]))))
        for moment in ("exp_avg", "exp_avg_sq"):
            expected = torch.zeros_like(first["whole"][name])
            expected.index_copy_(
                dim, where, torch.where(rows_that_train(first, name), of[moment], torch.zeros(()))
            )
            assert torch.equal(first["moments"][name][moment], expected), name
    assert second["carried"].keys() == first["adam"].keys() and first["adam"]
    for name, of in second["carried"].items():
        dim, where = second["places"].get(name, (0, torch.arange(len(second["whole"][name]))))
        for moment, decay in (("exp_avg", 0.9), ("exp_avg_sq", 0.999)):
            kept = first["moments"][name][moment]
            inside = kept.index_select(dim, where)
            trains = rows_that_train(second, name)
            assert torch.equal(of[moment], torch.where(trains, inside, torch.zeros(()))), name
            expected = kept * decay
            ended = torch.where(trains, second["adam"][name][moment], expected.index_select(dim, where))
            expected.index_copy_(dim, where, ended)
            torch.testing.assert_close(second["moments"][name][moment], expected, rtol=1e-6, atol=0)
        assert of["step"] == 5  # 16 steps in three phases: 5, 5, 6


def test_a_phase_without_masks_and_cuts_is_full_fine_tuning(prepared, tmp_path):
    options = ("method.rounds=0", "method.prune=0.0", "method.mask=0.0")
    case = prepared(*options)
    full = prepare_with(
        compose_tiny(tmp_path, "method=full", *OPTIONS[:3], "train.weight_decay=0.0"), case.runtime, case.data
    )
    for each in (case, full):
        train(*each.parts)
    for (name, ours), theirs in zip(weights(case.model).items(), weights(full.model).values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_counts_leave_removed_and_masked_rows_out(prepared):
    case = prepared("method.rounds=1")
    notes, prep, outcome, _ = noted(case)
    pruned = 4 * BERT_LAYER - 4 * HEAD_GROUP - 64 * NEURON
    assert prep.expected_trainable == pruned + EMBEDDINGS + HEAD
    facts = measured_facts(case.model, prep, outcome)
    totals, moved = [], {}
    for note in notes:
        in_matrices = sum(
            int(note["masks"][name].sum()) * note["pruned"][name].shape[1] for name in note["masks"]
        )
        others = sum(value.numel() for name, value in note["pruned"].items() if name not in note["masks"])
        totals.append(in_matrices + others)
        for name, value in note["pruned"].items():
            ever = moved.setdefault(name, torch.zeros(note["whole"][name].shape, dtype=torch.bool))
            dim, where = note["places"].get(name, (0, torch.arange(len(ever))))
            inside = ever.index_select(dim, where) | rows_that_train(note, name).expand(value.shape)
            ever.index_copy_(dim, where, inside)
    assert facts["trainable"]["at_once"] == max(totals) < prep.expected_trainable
    assert facts["trainable"]["backbone"] + HEAD == totals[0] and facts["trainable"]["head"] == HEAD
    assert "sizes" not in facts["facts"]
    assert facts["trainable"]["touched"] == sum(int(ever.sum()) for ever in moved.values())
    assert facts["trainable"]["touched"] > max(totals)
    assert facts["facts"]["mean_trained"] == sum(totals) / 2  # eight steps each
    assert facts["facts"]["trained_with_embeddings"] == max(totals)
    assert facts["facts"]["trained_without_embeddings"] == max(totals) - EMBEDDINGS
    assert (facts["facts"]["pruned_heads"], facts["facts"]["pruned_neurons"]) == (4, 64)


def test_embeddings_may_stay_frozen(prepared):
    case = prepared("method.free_embeddings=false", "method.rounds=1")
    notes, prep, outcome, checks = noted(case)
    assert checks.failures() == [] and checks.frozen_unchanged is True
    assert prep.expected_trainable == 4 * BERT_LAYER - 4 * HEAD_GROUP - 64 * NEURON + HEAD
    facts = measured_facts(case.model, prep, outcome)
    without = facts["facts"]["trained_without_embeddings"]
    assert facts["trainable"]["at_once"] == without
    assert facts["facts"]["trained_with_embeddings"] == without + EMBEDDINGS
    for name, before in notes[0]["whole"].items():
        assert ("embeddings" not in name) or torch.equal(weights(case.model)[name], before)


def test_the_other_methods_steps_are_divided_and_each_phase_decays_anew(prepared):
    case = prepared()  # six phases in 16 steps
    phases = build_method(case.run).phases(16)
    assert [phase.steps for phase in phases] == [2, 2, 3, 3, 3, 3]
    assert all(phase.restart_schedule for phase in phases)
    assert [phase.steps for phase in build_method(case.run).phases(4)] == [1, 1, 1, 1]
    outcome = train(*case.parts)
    assert [(entry["epoch"], entry["steps"]) for entry in outcome.history] == [(1, 8), (2, 16)]


def test_the_source_s_budget_is_two_epochs_per_phase(prepared):
    case = prepared("method.source_budget=true", "method.rounds=1", "train.batch_size=32")
    outcome = train(*case.parts)
    assert outcome.epochs == 4 and [entry["steps"] for entry in outcome.history] == [2, 4, 6, 8]
    assert [report.steps for report in outcome.phases] == [4, 4]


def test_the_whole_model_stays_on_the_cpu_and_the_pruned_one_is_evaluated(prepared, monkeypatch):
    seen = []
    real = loop.score_epoch
    monkeypatch.setattr(
        loop, "score_epoch", lambda run, model, *rest: seen.append(model) or real(run, model, *rest)
    )
    case = prepared("method.rounds=1")
    train(*case.parts)
    assert len(seen) == 2 and all(
        count(model.parameters()) < count(case.model.parameters()) for model in seen
    )
    assert case.model.device.type == "cpu"


def test_generation_leaves_the_language_model_s_head_frozen_unless_asked(tmp_path):
    def free(*overrides):
        return build_method(generation_run(tmp_path, "method=recap", *overrides)).free_embeddings

    assert free() is False and free("method.free_embeddings=true") is True
    assert build_method(compose_tiny(tmp_path, "method=recap")).free_embeddings is True


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("method.prune=1.0", r"method\.prune=1\.0 is not allowed"),
        ("method.mask=-0.1", r"method\.mask=-0\.1 is not allowed"),
        ("method.rounds=-1", r"method\.rounds=-1 is not allowed"),
        ("method.prune_steps=0", r"method\.prune_steps=0 is not allowed"),
        ("train.weight_decay=0.01", r"takes train\.weight_decay=0, not 0\.01"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path, option, message):
    with pytest.raises(ConfigError, match=message):
        build_method(compose_tiny(tmp_path, "method=recap", option))


def test_sub_steps_take_new_scores_and_end_at_the_same_sparsity(prepared, monkeypatch):
    from layertune.methods.recap import method as module

    sizes = []

    def counted(model, *rest):
        sizes.append(count(model.parameters()))
        return taylor(model, *rest)

    monkeypatch.setattr(module, "taylor", counted)
    case = prepared("method.rounds=0", "method.prune_steps=2")
    (note, *_), _, _, _ = noted(case)
    whole = count(case.model.parameters())
    assert sizes == [whole, whole - 2 * HEAD_GROUP - 32 * NEURON]
    assert [sum(map(len, pool)) for pool in note["kept"]] == [12, 192]
    assert positions(case.model, case.method.layout, note["kept"]).keys() == note["places"].keys()


def test_every_phase_and_every_score_of_it_draws_rows_of_its_own(prepared, monkeypatch):
    drawn = []

    def noting(num_rows, batch_size, seed):
        drawn.append(draw_rows(num_rows, batch_size, seed))
        return drawn[-1]

    monkeypatch.setattr(scores, "draw_rows", noting)
    train(*prepared("method.rounds=2", "method.prune_steps=2").parts)
    assert len(drawn) == 3 * (2 + 1)  # phases; Taylor scores before each sub-step, then Fisher scores
    assert len({np.concatenate(rows).tobytes() for rows in drawn}) == 9
