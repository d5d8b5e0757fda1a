"""Whole trainings: arms that take every step of real data, and how cost grows."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from layertune.benchmark import end_to_end
from layertune.benchmark.arms import Bench, LoopArm, Setting, loop_arms
from layertune.benchmark.end_to_end import measure_end_to_end, measure_growth
from layertune.benchmark.jobs import arm_named
from layertune.benchmark.trainer_arms import TrainerArm, trainer_arms

RANDOM = "model.random_config.vocab_size=20000"  # examples whose lengths alone count hold random words


def test_on_real_data_some_arms_take_every_step_and_the_others_are_projected(tmp_path, monkeypatch):
    bench = Bench.start(Setting(("model=tiny_bert", RANDOM), "demo", tmp_path, batch_size=64))
    top = LoopArm("h4", "", ("method=top_k", "method.k=1", "train=fast"), 4, scored=True)
    chosen = [*(arm for arm in trainer_arms(64) if arm.name in ("a", "c")), loop_arms()[0], top]
    steps = {arm.name: [] for arm in chosen}
    real_loop, real_trainer = Bench.train, TrainerArm.train
    names = {"full": "f", "top_k": "h4"}

    def loop_train(bench, run, data):
        outcome = real_loop(bench, run, data)
        steps[names[run.method.name]].append(outcome.steps)
        seconds = (1.0,) * len(outcome.step_seconds)
        return replace(outcome, cpu_seconds=float(len(seconds)), step_seconds=seconds)

    def trainer_train(arm, bench, examples):
        seconds = real_trainer(arm, bench, examples)
        steps[arm.name].append(len(seconds) + 1)
        return ((4.0 if arm.pad_to else 2.0),) * len(seconds)

    monkeypatch.setattr(Bench, "train", loop_train)
    monkeypatch.setattr(TrainerArm, "train", trainer_train)
    found = measure_end_to_end(bench, chosen, 2, ("a", "h4"), 3, 3)
    epoch = -(-found["examples"] // 64)
    # in each of three rounds the first of the others warms the process up by two steps; each warms up by one,
    # there (two of three batches) and back (one); c is measured in the first round alone
    f = [3, 2, *[2, 3, 2], *[2, 3, 2]]
    assert steps == {"a": [epoch, epoch], "c": [2, 4], "f": f, "h4": [epoch, epoch]}
    lines = {line["arm"]: line for line in found["arms"]}
    assert lines["a"]["seconds"]["training"] == 2 * 2.0 * epoch and lines["a"]["epochs"] == [2.0 * epoch] * 2
    assert lines["c"]["seconds"]["training"] == pytest.approx(2 * 4.0 * epoch) and not lines["c"]["epochs"]
    assert lines["f"]["seconds"]["training"] == pytest.approx(lines["h4"]["seconds"]["training"])
    assert lines["f"]["ratio"] == pytest.approx(2.0) and lines["f"]["seconds"]["selection"] == 0
    assert lines["f"]["spread"] == 0.0 and lines["h4"]["spread"] is not None
    assert [name for name, line in lines.items() if line["projected"]] == ["c", "f"]
    # 4 s each against 1 s in every round, against selection and cache too
    assert lines["f"]["ratio_to"]["c"] == pytest.approx((4.0, 0.0))
    assert lines["h4"]["ratio_to"]["c"][0] == pytest.approx(2 * lines["h4"]["ratio"])
    assert 1.0 < lines["h4"]["ratio"] < 2.0  # its selection and cache count
    assert min(lines["h4"]["seconds"]["selection"], lines["h4"]["seconds"]["cache"]) > 0


def test_on_a_cuda_device_the_loop_takes_all_epochs_at_a_time(tmp_path, monkeypatch):
    """Graphs are captured once in a training: an epoch of its own would pay for it again."""
    bench = Bench.start(Setting(("model=tiny_bert", RANDOM), "demo", tmp_path, batch_size=64))
    runtime = replace(bench.runtime, device=torch.device("cuda"))
    calls = []

    def train(run, data):
        calls.append(f"h10 {run.train.epochs}")
        return SimpleNamespace(
            history=[{"seconds": s} for s in (5.0, 2.0, 2.0)], cache=SimpleNamespace(seconds=1.0)
        )

    monkeypatch.setattr(bench, "runtime", runtime)
    monkeypatch.setattr(bench, "train", train)
    monkeypatch.setattr(end_to_end, "_selection", lambda _, arm, __: 0.5 * (arm.name == "h10"))
    monkeypatch.setattr(end_to_end, "_trainer_epoch", lambda *_: calls.append("a") or 20.0)
    warmed = []
    for kind in (TrainerArm, LoopArm):
        monkeypatch.setattr(kind, "steps", lambda arm, _, few: warmed.append((arm.name, len(few))))
    monkeypatch.setattr(end_to_end, "selection_seconds", lambda *_: warmed.append("selection"))
    chosen = [trainer_arms()[0], arm_named("h10")]
    found = measure_end_to_end(bench, chosen, 3, ("a", "h10"), 3, 5)
    assert warmed == ["selection", ("a", 5), ("h10", 5)]
    assert calls == ["a", "h10 3", "a", "a"]
    seconds = {line["arm"]: line["seconds"] for line in found["arms"]}
    assert seconds["h10"] == {"selection": 0.5, "cache": 1.0, "training": 9.0, "total": 10.5}
    assert seconds["a"]["total"] == 60.0
    # captures come once, as selection and cache do: each epoch costs 2 s and a third of 3 + 1 + 0.5
    assert found["arms"][1]["ratio"] == pytest.approx(60 / 10.5) and found["arms"][1]["spread"] == 0.0


def test_whole_trainings_grow_with_examples_and_epochs(bench, lengths):
    arm = arm_named("h10")
    found = measure_growth(bench, arm, lengths, [(40, 1), (80, 2)])
    assert [(line["examples"], line["epochs"]) for line in found] == [(40, 1), (80, 2)]
    assert all(0 < line["selection"] < line["seconds"] for line in found)


def test_of_whole_trainings_the_shortest_stands_and_layers_are_chosen_before(bench, lengths, monkeypatch):
    calls = []

    def choose(_, lengths):  # how many examples decide depends on the weights: none may have been trained
        calls.append(f"choose of {len(lengths)}")
        return len(lengths) / 100, 64

    def fit(run, data):
        calls.append(f"{len(data.train)} x {run.train.epochs}")

    clock = iter([0, 5, 10, 13, 20, 24, 30, 36])  # 5, 3, then backwards 4, 6
    monkeypatch.setattr(end_to_end, "selection_seconds", choose)
    monkeypatch.setattr(end_to_end, "clock_of", lambda _: clock.__next__)
    monkeypatch.setattr(bench, "train", fit)
    arm = arm_named("h10")
    found = measure_growth(bench, arm, lengths, [(40, 1), (20, 2)], rounds=2)
    assert calls[1:] == ["choose of 40", "choose of 20", "40 x 1", "20 x 2", "20 x 2", "40 x 1"]
    assert [line["rounds"] for line in found] == [[5.4, 6.4], [3.2, 4.2]]
    assert [line["seconds"] for line in found] == [5.4, 3.2]
