"""The arms of the benchmark on a tiny model: each trains what it says, and reports what it spent."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_bench import TINY

from layertune.benchmark import arms, breakdown, measure, once
from layertune.benchmark import trainer_arms as trainer_arms_module
from layertune.benchmark.arms import Bench, LoopArm, Setting, bert_base, loop_arms
from layertune.benchmark.breakdown import kind_of, measure_breakdown
from layertune.benchmark.jobs import Plan, all_arms, arm_named, jobs_of
from layertune.benchmark.lengths import across, random_batches, task_lengths
from layertune.benchmark.measure import arms_of_round, combine, measure_round
from layertune.benchmark.once import start_seconds, tokenising_rate
from layertune.benchmark.project import Curve, Round
from layertune.benchmark.trainer_arms import ForTrainer, TrainerArm, trainer_arms
from layertune.training.loop import _Loop as Loop


def trained(bench: Bench) -> set[int]:
    layers = bench.model.backbone.layers
    return {i + 1 for i, layer in enumerate(layers) if all(p.requires_grad for p in layer.parameters())}


EXPECTED = {"f": set(range(1, 13)), "10": {10, 11, 12}, "5": {5, 6, 7}, "4": {4, 8, 12}, "1": {1, 2, 3}}


def batches(lengths, count: int = 2):
    return across([random_batches(lengths, 4, 0)], count)


@pytest.mark.parametrize("arm", [arm for arm in loop_arms() if arm.name in ("f", "g4", "h10", "h5", "h1")])
def test_an_arm_of_the_loop_trains_its_layers_and_times_each_step(arm, bench, lengths):
    curve, cached_below = arm.steps(bench, batches(lengths))
    assert trained(bench) == EXPECTED[arm.name.lstrip("gh")]
    assert len(curve.seconds) == 2 and min(curve.seconds) > 0
    assert cached_below == {"h10": 10, "h5": 5}.get(arm.name)


def test_a_step_of_the_loop_goes_with_the_width_of_its_batch(bench, monkeypatch):
    def steps_by_width(run, model, data, method, runtime, track):
        loop = Loop(run, model, data, method, runtime, track)
        order = [data.train.store.batch(rows).input_ids.shape[1] for rows in loop.batches(1)]
        timed = tuple(100.0 + width for width in order[1:])  # the first of them warms up
        return SimpleNamespace(step_seconds=timed, cache=SimpleNamespace(layer=None))

    monkeypatch.setattr(arms, "train", steps_by_width)
    arm = arm_named("f")
    curve, _ = arm.steps(bench, [np.full(4, width) for width in (8, 16, 24, 40)])
    assert sorted(curve.widths) == [8, 16, 24, 40]
    assert curve.seconds == tuple(100.0 + width for width in curve.widths)


def test_a_round_measures_each_part_of_each_arm_and_is_projected_on_every_task(bench):
    tasks = [
        replace(task_lengths(name), lengths=task_lengths(name).lengths[:600]) for name in ("mrpc", "sst2")
    ]
    chosen = all_arms(("a", "c", "f", "g4", "h10", "h1"))
    rounds = [measure_round(bench, tasks, chosen, 3)]
    parts = rounds[0]
    assert {name: len(found.step.widths) for name, found in parts.items()} == {
        "a": 3, "c": 1, "f": 3, "g4": 3, "h10": 3, "h1": 3
    }  # fmt: skip
    assert parts["c"].step.widths == (256,)
    assert {name for name, found in parts.items() if found.select} == {"g4"}
    assert {name for name, found in parts.items() if found.select_few} == {"h10", "h1"}
    assert {name for name, found in parts.items() if found.cache} == {"h10"}
    assert set(parts["h10"].examples) == {"mrpc", "sst2"} and min(parts["h10"].examples.values()) >= 64
    found = combine(rounds, tasks, chosen, bench.setting)
    assert [(task["task"], task["examples"]) for task in found] == [("mrpc", 3668), ("sst2", 6920)]
    for task in found:
        by_name = {line["arm"]: line for line in task["arms"]}
        assert by_name["a"]["ratio"] == 1.0 and by_name["a"]["spread"] is None  # of one round
        assert all(line["seconds"]["training"] > 0 for line in task["arms"])
        assert by_name["g4"]["seconds"]["selection"] > 0 and by_name["f"]["seconds"]["selection"] == 0
        assert by_name["h10"]["seconds"]["cache"] > 0 and by_name["h1"]["seconds"]["cache"] == 0


def test_layers_are_chosen_before_any_arm_trains(bench, monkeypatch):
    done = []
    chosen = all_arms(("a", "h10"))
    monkeypatch.setattr(measure, "selection_seconds", lambda *_: done.append("selection") or (1.0, 64))
    real = Bench.train
    monkeypatch.setattr(Bench, "train", lambda *args: done.append("training") or real(*args))
    task = replace(task_lengths("sst2"), lengths=task_lengths("sst2").lengths[:64])
    measure_round(bench, [task], chosen, 2)
    assert done == ["selection", "training", "training"]  # there and back


def test_a_round_goes_from_the_first_arm_to_the_last_and_back(bench, monkeypatch):
    """A machine that grows slower, 1 s more with each batch, is as slow to all arms on average."""
    taken, clock = [], iter(range(1, 100))
    chosen = all_arms(("a", "c", "f", "e1"))

    def steps(arm, bench, batches):
        taken.append((arm.name, [int(batch.max()) for batch in batches]))
        widths = tuple(int(batch.max()) for batch in batches)
        return Curve(widths, tuple(float(next(clock)) for _ in batches)), None

    for kind in (TrainerArm, LoopArm):
        monkeypatch.setattr(kind, "steps", steps)
    batches = [np.full(4, width) for width in (8, 16, 24, 32)]
    monkeypatch.setattr(measure.Batches, "of", lambda *_: batches)
    found = measure_round(bench, [task_lengths("mrpc")], chosen, 4)
    assert taken[0] == ("a", [32])  # the widest warms up
    assert taken[1:] == [
        ("a", [8, 24]), ("e1", [8, 24]), ("f", [8, 24]), ("c", [8, 16, 24, 32]),
        ("f", [16, 32]), ("e1", [16, 32]), ("a", [16, 32]),
    ]  # fmt: skip
    assert found["e1"].step == Curve((8, 24, 16, 32), (4.0, 5.0, 14.0, 15.0))
    means = {name: float(np.mean(one.step.seconds)) for name, one in found.items()}
    assert set(means.values()) == {9.5}


def test_the_padded_arm_is_measured_in_the_first_of_all_rounds(bench):
    """Its one cost stands beside each of the others'."""
    chosen = all_arms(("a", "c"))
    assert [[arm.name for arm in arms_of_round(chosen, number)] for number in (0, 1, 2)] == [
        ["a", "c"],
        ["a"],
        ["a"],
    ]
    one = {"a": Round(Curve((50,), (2.0,))), "c": Round(Curve((256,), (8.0,)))}
    rounds = [one, {"a": Round(Curve((50,), (4.0,)))}, {"a": Round(Curve((50,), (1.0,)))}]
    task = replace(task_lengths("mrpc"), lengths=np.full(3668, 50))
    (found,) = combine(rounds, [task], chosen, bench.setting)
    lines = {line["arm"]: line for line in found["arms"]}
    assert lines["a"]["ratio_to"]["c"] == pytest.approx((4.0, 1.5))  # 4, 2, 8: (8 - 2) / 4


@pytest.mark.parametrize(
    ("name", "device", "warm", "timed"),
    [
        ("a", "cpu", [8], [12, 16, 24]),
        ("c", "cpu", [8], [64, 64, 64]),
        ("a", "cuda", [12, 16, 24], [12, 16, 24]),
        ("c", "cuda", [12, 64, 64], [64, 64, 64]),
    ],
)
def test_an_arm_of_the_trainer_warms_up(name, device, warm, timed, bench, monkeypatch):
    widths = []
    real = ForTrainer.forward

    def forward(model, input_ids, attention_mask, labels):
        widths.append(input_ids.shape[1])
        return real(model, input_ids, attention_mask, labels)

    monkeypatch.setattr(ForTrainer, "forward", forward)
    runtime = replace(bench.runtime, device=torch.device(device))
    monkeypatch.setattr(bench, "runtime", runtime)
    monkeypatch.setattr(trainer_arms_module, "clock_of", lambda _: iter(range(100)).__next__)
    arm = next(arm for arm in trainer_arms(64) if arm.name == name)
    curve, _ = arm.steps(bench, [np.full(4, width) for width in (12, 16, 24)])
    assert widths == warm + timed
    timed = timed[:1] if name == "c" else timed  # the shortest of the padded ones
    assert curve == Curve(tuple(timed), (1,) * len(timed))  # this clock goes by one per step


def test_the_time_of_a_step_is_shared_out_among_its_operations(tmp_path):
    arm = arm_named("h10")
    shape = bert_base(**(TINY | {"hidden_size": 96, "intermediate_size": 384}))
    found = measure_breakdown(Setting(shape, "mrpc", tmp_path, batch_size=4), arm)
    shares = found["shares"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["matrix products"] > 0.1
    names = ["aten::addmm", "aten::gelu_backward", "aten::copy_", "aten::_scaled_dot_product_flash_attention"]
    kinds = ["matrix products", "GELU", "everything else", "attention"]
    assert [kind_of(name) for name in names] == kinds


def test_a_share_is_one_of_what_more_steps_take_and_never_negative(bench, monkeypatch):
    profiles = iter([  # of few steps, of more
        {"aten::mm": 1.0, "aten::addmm": 1.0, "aten::_fused_adamw_": 0.5, "aten::gelu": 0.2},
        {"aten::mm": 4.0, "aten::addmm": 3.0, "aten::_fused_adamw_": 1.5, "aten::gelu": 0.1, "add": 2.0},
    ])  # fmt: skip
    monkeypatch.setattr(breakdown, "_seconds_by_operation", lambda *_: next(profiles))
    shares = measure_breakdown(bench.setting, arm_named("h10"))["shares"]
    found = {kind: share for kind, share in shares.items() if share}
    assert found == {"matrix products": 5 / 8, "optimiser": 1 / 8, "everything else": 2 / 8}


def test_tables_are_timed_on_copies_of_records_that_are_there(tmp_path, monkeypatch, repo):
    runs = tmp_path / "records"
    runs.mkdir()
    records = sorted((repo / "results" / "runs").glob("gte_small-trec-*.json"))[:2]
    for record in records:
        shutil.copy(record, runs)
    monkeypatch.setattr(once, "RECORDS", 5)
    monkeypatch.chdir(repo)
    setting = Setting(("model=tiny_bert",), "demo", tmp_path / "scratch")
    assert 0.1 < once.tables_seconds(setting, runs) < 120
    copies = [json.loads(p.read_text()) for p in sorted((tmp_path / "scratch/tables/runs").glob("*.json"))]
    own = [json.loads(record.read_text())["identity"]["config_sha256"] for record in records]
    hashes = [copy["identity"]["config_sha256"] for copy in copies]
    assert hashes[:2] == own and len(set(hashes)) == 5
    with pytest.raises(FileNotFoundError, match="no records"):
        once.tables_seconds(setting, tmp_path / "nowhere")


def test_a_process_is_timed_to_its_first_step_and_sentences_by_the_second(tmp_path):
    setting = Setting(("model=tiny_bert",), "demo", tmp_path)
    assert 0.5 < start_seconds(setting) < 120
    assert tokenising_rate(setting) > 100
    assert not list(tmp_path.glob("**/runs/*.json"))  # it ends before there is a record


@pytest.mark.parametrize("arm", [arm for arm in trainer_arms(64) if arm.name in ("a", "c", "d", "e5")])
def test_an_arm_of_the_trainer_trains_what_it_says(arm, bench, lengths):
    pytest.importorskip("peft") if arm.lora else None
    curve, cached_below = arm.steps(bench, batches(lengths))
    assert cached_below is None and min(curve.seconds) > 0
    assert curve.widths == ((64,) if arm.pad_to else tuple(int(batch.max()) for batch in batches(lengths)))
    if arm.lora:
        names = {n for n, p in bench.variants["lora"].named_parameters() if p.requires_grad}
        assert {"lora_" in name or name.startswith("head.") for name in names} == {True}
        assert sum("lora_A" in name for name in names) == 24  # queries and values of 12 layers
        word = "backbone.model.embeddings.word_embeddings.weight"
        assert bench.variants["lora"].get_parameter(word) is bench.model.get_parameter(word)  # no second copy
    else:
        assert trained(bench) == (EXPECTED["5"] if arm.layers else EXPECTED["f"])


def test_all_arms_have_names_of_their_own(tmp_path):
    names = [arm.name for arm in all_arms()]
    assert len(set(names)) == len(names) == 17
    assert {name[0] for name in names} == set("abcdefgh")
    plan = Plan(tmp_path, tasks=("sst2",))
    assert "profile" not in {part for part, _ in jobs_of(plan)}  # only on request
    assert jobs_of(Plan(tmp_path, parts=("profile",))) == [("profile", "h10"), ("profile", "h5")]
    assert [name for part, name in jobs_of(plan) if part == "tasks"] == ["round 1", "round 2"]
    assert not any(part == "real" for part, _ in jobs_of(plan))  # no data were named
