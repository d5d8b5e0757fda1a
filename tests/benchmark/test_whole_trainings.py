"""Whole trainings: arms that take every step of real data, and how cost grows."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from layertune.tasks.synthetic import SIZES
from scripts.benchmark import measure
from scripts.benchmark.arms import ARMS, Bench, LoopArm, Setting, TrainerArm
from scripts.benchmark.measure import measure_end_to_end, measure_growth

RANDOM = "model.random_config.vocab_size=20000"  # examples whose lengths alone count hold random words


@pytest.mark.slow
def test_on_real_data_some_arms_take_every_step_and_the_others_are_projected(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "train", 640)
    model = ("model=tiny_bert", RANDOM, "task.counts.train=640")
    bench = Bench.start(Setting(model, "demo", tmp_path, batch_size=64))
    top = LoopArm("fast_top1", "", (4,), mode="fast")
    padded = replace(ARMS["trainer_full_padded"], pad_to=64)
    chosen = [ARMS["trainer_full"], padded, ARMS["published_full"], top]
    steps = {arm.name: [] for arm in chosen}
    real_loop, real_trainer = Bench.train, TrainerArm.train
    names = {"full": "published_full", "layers": "fast_top1"}

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
    found = measure_end_to_end(bench, chosen, 2, ("trainer_full", "fast_top1"), 3, 3)
    epoch = -(-found["examples"] // 64)
    # in each of three rounds the first of the others warms the process up by two steps; each warms up by one,
    # there (two of three batches) and back (one); the padded one is measured in the first round alone
    f = [3, 2, *[2, 3, 2], *[2, 3, 2]]
    assert steps == {
        "trainer_full": [epoch, epoch],
        "trainer_full_padded": [2, 4],
        "published_full": f,
        "fast_top1": [epoch, epoch],
    }
    assert [line["arm"] for line in found["arms"] if line["projected"]] == [
        "trainer_full_padded",
        "published_full",
    ]
    full, padded, published, fast = found["arms"]
    assert full["seconds"]["training"] == 2 * 2.0 * epoch and full["epochs"] == [2.0 * epoch] * 2
    assert padded["seconds"]["training"] == pytest.approx(2 * 4.0 * epoch) and not padded["epochs"]
    assert published["seconds"]["training"] == pytest.approx(fast["seconds"]["training"])
    assert published["ratio"] == pytest.approx(2.0) and published["seconds"]["selection"] == 0
    assert published["spread"] == 0.0 and fast["spread"] is not None
    # 4 s each against 1 s in every round, against selection and cache too
    assert published["ratio_to"]["trainer_full_padded"] == pytest.approx((4.0, 0.0))
    assert fast["ratio_to"]["trainer_full_padded"][0] == pytest.approx(2 * fast["ratio"])
    assert 1.0 < fast["ratio"] < 2.0  # its selection and cache count
    assert min(fast["seconds"]["selection"], fast["seconds"]["cache"]) > 0


def test_on_a_cuda_device_the_loop_takes_all_epochs_at_a_time(tmp_path, monkeypatch):
    """Graphs are captured once in a training: an epoch of its own would pay for it again."""
    bench = Bench.start(Setting(("model=tiny_bert", RANDOM), "demo", tmp_path, batch_size=64))
    runtime = replace(bench.runtime, device=torch.device("cuda"))
    calls = []

    def train(run, data):
        calls.append(f"fast_top3 {run.train.epochs}")
        return SimpleNamespace(
            history=[{"seconds": s} for s in (5.0, 2.0, 2.0)], cache=SimpleNamespace(seconds=1.0)
        )

    monkeypatch.setattr(bench, "runtime", runtime)
    monkeypatch.setattr(bench, "train", train)
    monkeypatch.setattr(measure, "selection_of", lambda _, arm, __: 0.5 * (arm.name == "fast_top3"))
    monkeypatch.setattr(measure, "trainer_epoch", lambda *_: calls.append("trainer_full") or 20.0)
    warmed = []
    for kind in (TrainerArm, LoopArm):
        monkeypatch.setattr(kind, "steps", lambda arm, _, few: warmed.append((arm.name, len(few))))
    monkeypatch.setattr(measure, "selection_seconds", lambda *_: warmed.append("selection"))
    chosen = [ARMS["trainer_full"], ARMS["fast_top3"]]
    found = measure_end_to_end(bench, chosen, 3, ("trainer_full", "fast_top3"), 3, 5)
    assert warmed == ["selection", ("trainer_full", 5), ("fast_top3", 5)]
    assert calls == ["trainer_full", "fast_top3 3", "trainer_full", "trainer_full"]
    seconds = {line["arm"]: line["seconds"] for line in found["arms"]}
    assert seconds["fast_top3"] == {"selection": 0.5, "cache": 1.0, "training": 9.0, "total": 10.5}
    assert seconds["trainer_full"]["total"] == 60.0
    # captures come once, as selection and cache do: each epoch costs 2 s and a third of 3 + 1 + 0.5
    assert found["arms"][1]["ratio"] == pytest.approx(60 / 10.5) and found["arms"][1]["spread"] == 0.0


def test_whole_trainings_grow_with_examples_and_epochs(bench, lengths):
    arm = ARMS["fast_top3"]
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
    monkeypatch.setattr(measure, "selection_seconds", choose)
    monkeypatch.setattr(measure, "clock_of", lambda _: clock.__next__)
    monkeypatch.setattr(bench, "train", fit)
    arm = ARMS["fast_top3"]
    found = measure_growth(bench, arm, lengths, [(40, 1), (20, 2)], rounds=2)
    assert calls[1:] == ["choose of 40", "choose of 20", "40 x 1", "20 x 2", "20 x 2", "40 x 1"]
    assert [line["rounds"] for line in found] == [[5.4, 6.4], [3.2, 4.2]]
    assert [line["seconds"] for line in found] == [5.4, 3.2]
