"""The proof in every record: each method does what its name says, and a run that cheats fails."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from tiny_runs import compose_tiny, methods_by_kind, options_of, timeless, whole_but

from layertune.config.groups import group_file
from layertune.errors import RunFailed
from layertune.methods import METHODS, HeadOnly, SelectedLayers
from layertune.pipeline import execute
from layertune.records import Store, read_record
from layertune.training import loop


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results", tmp_path / "outputs")


@pytest.fixture
def run_of(tmp_path):
    return lambda *overrides: compose_tiny(tmp_path, *overrides)


def failed_record(run, store, monkeypatch, method):
    """Execute a run whose method is replaced; it must fail, and its record is returned."""
    monkeypatch.setitem(METHODS, run.method.kind, method)
    with pytest.raises(RunFailed, match="checks are false"):
        execute(run, store)
    record = read_record(store.path(run))
    assert record.status == "failed"
    return record


@pytest.mark.parametrize(
    ("method", "model"),
    whole_but(
        (first, (method, model))
        for (method, first), model in product(methods_by_kind(), ["tiny_bert", "tiny_gpt2"])
    ),
)
def test_every_method_makes_a_record_whose_checks_hold(run_of, store, method, model):
    selects = "k" in (group_file("method", method) or {}) or method == "layers"
    run = run_of(*options_of(method, model), "protocol.train_examples=48")
    record = execute(run, store)
    checks = record.checks
    assert record.status == "done" and record.training.steps == 3
    assert (checks.trained_changed, checks.loss_finite, checks.trainable_matches_selection) == (True,) * 3
    no_frozen_tensor = method in ("full", "recap")  # RECAP freezes rows: its own tests hold them
    assert checks.frozen_unchanged is (None if no_frozen_tensor else True)
    assert checks.beats_majority is None  # smoke says nothing about quality
    assert (record.selection is not None) == bool(selects)
    lowest = record.model.lowest_trained_layer
    if selects:
        assert lowest == record.selection.layers[0]
    elif method == "head_only":
        assert lowest is None
    else:
        assert lowest == 0 if method == "full" else lowest in range(5)
    counts = record.model.trainable
    assert 0 < counts["at_once"] <= counts["touched"]
    if selects or method in ("full", "head_only"):  # nothing changes on the way
        assert counts["touched"] == counts["at_once"] == record.model.num_trainable - record.model.unused


def test_a_frozen_tensor_changed_behind_the_loop_fails_the_run(run_of, store, monkeypatch):
    class Meddling(SelectedLayers):
        def after_step(self, model, step):
            if step == 2:
                frozen = [p for p in model.backbone.parameters() if not p.requires_grad]
                frozen[-1].data.view(-1)[0] += 1e-6

    record = failed_record(run_of("method.k=2"), store, monkeypatch, Meddling)
    assert record.checks.failures() == ["frozen_unchanged"]
    assert record.metrics is not None and record.training is not None  # all that was found out is kept


def test_a_selected_layer_that_is_put_back_fails_the_run(run_of, store, monkeypatch):
    class Undoing(SelectedLayers):
        def before_step(self, model, step):
            layer = model.backbone.layers[self.select(4, self.kept)[0] - 1]
            self.before = {p: p.detach().clone() for p in layer.parameters()}

        def after_step(self, model, step):
            for parameter, value in self.before.items():
                parameter.data.copy_(value)

        def score(self, *arguments):
            self.kept, reused = super().score(*arguments)
            return self.kept, reused

    record = failed_record(run_of("method.k=2"), store, monkeypatch, Undoing)
    assert record.checks.failures() == ["trained_changed"]


def test_a_selected_layer_that_the_optimiser_never_held_fails_the_run(run_of, store, monkeypatch):
    class Forgetful(SelectedLayers):
        def optimised(self, model):
            return ((name, p) for name, p in super().optimised(model) if name.startswith("head."))

    record = failed_record(run_of("method.k=2"), store, monkeypatch, Forgetful)
    assert record.checks.failures() == ["trained_changed"]


def test_a_method_that_lies_about_its_count_fails_the_run(run_of, store, monkeypatch):
    class Lying(HeadOnly):
        def prepare(self, model, data, runtime):
            prep = super().prepare(model, data, runtime)
            model.backbone.layers[0].requires_grad_(True)
            return prep

    record = failed_record(run_of("method=head_only"), store, monkeypatch, Lying)
    assert record.checks.failures() == ["trainable_matches_selection"]
    assert record.model.trainable["backbone"] > 0


def test_training_other_layers_of_the_same_size_fails_the_run(run_of, store, monkeypatch):
    class Elsewhere(SelectedLayers):
        def prepare(self, model, data, runtime):
            prep = super().prepare(model, data, runtime)
            chosen, other = prep.layers[0], ({1, 2, 3, 4} - set(prep.layers)).pop()
            model.backbone.layers[chosen - 1].requires_grad_(False)
            model.backbone.layers[other - 1].requires_grad_(True)
            return prep

    record = failed_record(run_of("method.k=2"), store, monkeypatch, Elsewhere)
    assert record.checks.failures() == ["trainable_matches_selection"]


def test_a_pooler_that_is_never_updated_is_counted_and_fails_nothing(run_of, store):
    record = execute(run_of("method=full", "model.pooler=true"), store)
    plain = execute(run_of("method=full", "force=true"), store)  # a pooler is no other run
    pooler = 32 * 32 + 32
    assert record.model.unused == pooler and plain.model.unused == 0
    assert record.model.trainable["backbone"] == plain.model.trainable["backbone"] + pooler
    assert record.checks.failures() == []


@pytest.mark.parametrize("right", [True, False])
def test_beating_the_majority_is_a_fact_and_never_a_failure(run_of, store, monkeypatch, right):
    monkeypatch.setattr(
        loop, "score_epoch", lambda *_: {"demo": {"accuracy": 0.9 if right else 0.1, "f1_macro": 0.5}}
    )
    sizes = ("protocol=quick", "protocol.train_examples=32", "protocol.eval_examples=16")
    record = execute(run_of("method=head_only", *sizes), store)
    assert (record.status, record.checks.beats_majority) == ("done", right)


def test_the_order_of_runs_changes_no_number(run_of, store):
    first = execute(run_of("method=low_k", "method.k=2", "seed=7"), store)
    between = ["method=grad_norm_k", "train.precision=bf16", "train.deterministic=true", "seed=3"]
    execute(run_of(*between), store)
    torch.rand(5)
    again = execute(run_of("method=low_k", "method.k=2", "seed=7", "force=true"), store)
    assert timeless(again.training.history) == timeless(first.training.history)
    assert again.metrics == first.metrics and again.env == first.env
    assert again.selection.layers == first.selection.layers
