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

from layertune.records.store import read_folders
from layertune.training.loop import _Loop as Loop
from scripts.benchmark import arms, measure, once, step, trainer
from scripts.benchmark.arms import ARMS, Bench, LoopArm, Setting, TrainerArm, bert_base
from scripts.benchmark.lengths import across, random_batches, task_lengths
from scripts.benchmark.measure import arms_of_round, combine, measure_round
from scripts.benchmark.once import start_seconds, tokenising_rate
from scripts.benchmark.project import Curve, Round
from scripts.benchmark.step import kind_of, measure_breakdown
from scripts.benchmark.trainer import ForTrainer


def trained(bench: Bench) -> set[int]:
    layers = bench.model.backbone.layers
    return {i + 1 for i, layer in enumerate(layers) if all(p.requires_grad for p in layer.parameters())}


EXPECTED = {  # by the last word of an arm's name
    "full": set(range(1, 13)),
    "top3": {10, 11, 12},
    "middle3": {5, 6, 7},
    "spread3": {4, 8, 12},
    "bottom3": {1, 2, 3},
    "padded": set(range(1, 13)),
}


def chosen_arms(*names: str):
    return [ARMS[name] for name in names]


def batches(lengths, count: int = 2):
    return across([random_batches(lengths, 4, 0)], count)


@pytest.mark.parametrize(
    "name", ["published_full", "published_spread3", "fast_top3", "fast_middle3", "fast_bottom3"]
)
def test_an_arm_of_the_loop_trains_its_layers_and_times_each_step(name, bench, lengths):
    curve, cached_below = ARMS[name].steps(bench, batches(lengths))
    assert trained(bench) == EXPECTED[name.split("_")[-1]]
    assert len(curve.seconds) == 2 and min(curve.seconds) > 0
    assert cached_below == {"fast_top3": 10, "fast_middle3": 5}.get(name)


def test_a_step_of_the_loop_goes_with_the_width_of_its_batch(bench, monkeypatch):
    def steps_by_width(run, model, data, method, runtime, track):
        loop = Loop(run, model, data, method, runtime, track)
        order = [data.train.store.batch(rows).input_ids.shape[1] for rows in loop.batches(1)]
        timed = tuple(100.0 + width for width in order[1:])  # the first of them warms up
        return SimpleNamespace(step_seconds=timed, cache=SimpleNamespace(layer=None))

    monkeypatch.setattr(arms, "train", steps_by_width)
    arm = ARMS["published_full"]
    curve, _ = arm.steps(bench, [np.full(4, width) for width in (8, 16, 24, 40)])
    assert sorted(curve.widths) == [8, 16, 24, 40]
    assert curve.seconds == tuple(100.0 + width for width in curve.widths)


def test_a_round_measures_each_part_of_each_arm_and_is_projected_on_every_task(bench):
    tasks = [
        replace(task_lengths(name), lengths=task_lengths(name).lengths[:600]) for name in ("mrpc", "sst2")
    ]
    chosen = chosen_arms(
        *("trainer_full", "trainer_full_padded", "published_full"),
        *("published_spread3", "fast_top3", "fast_bottom3"),
    )
    rounds = [measure_round(bench, tasks, chosen, 3)]
    parts = rounds[0]
    assert [(name, len(found.step.widths)) for name, found in parts.items()] == [
        ("trainer_full", 3),
        ("trainer_full_padded", 1),
        ("published_full", 3),
        ("published_spread3", 3),
        ("fast_top3", 3),
        ("fast_bottom3", 3),
    ]
    assert parts["trainer_full_padded"].step.widths == (256,)
    assert {name for name, found in parts.items() if found.select} == {"published_spread3"}
    assert {name for name, found in parts.items() if found.select_few} == {"fast_top3", "fast_bottom3"}
    assert {name for name, found in parts.items() if found.cache} == {"fast_top3"}
    read = parts["fast_top3"].examples
    assert set(read) == {"mrpc", "sst2"} and min(read.values()) >= 64
    found = combine(rounds, tasks, chosen, bench.setting)
    assert [(task["task"], task["examples"]) for task in found] == [("mrpc", 3668), ("sst2", 6920)]
    for task in found:
        base, _, full, published, top, bottom = task["arms"]
        assert base["ratio"] == 1.0 and base["spread"] is None  # of one round
        assert all(line["seconds"]["training"] > 0 for line in task["arms"])
        assert published["seconds"]["selection"] > 0 and full["seconds"]["selection"] == 0
        assert top["seconds"]["cache"] > 0 and bottom["seconds"]["cache"] == 0


def test_layers_are_chosen_before_any_arm_trains(bench, monkeypatch):
    done = []
    chosen = chosen_arms("trainer_full", "fast_top3")
    monkeypatch.setattr(measure, "selection_seconds", lambda *_: done.append("selection") or (1.0, 64))
    real = Bench.train
    monkeypatch.setattr(Bench, "train", lambda *args: done.append("training") or real(*args))
    task = replace(task_lengths("sst2"), lengths=task_lengths("sst2").lengths[:64])
    measure_round(bench, [task], chosen, 2)
    assert done == ["selection", "training", "training"]  # there and back


def test_a_round_goes_from_the_first_arm_to_the_last_and_back(bench, monkeypatch):
    """A machine that grows slower, 1 s more with each batch, is as slow to all arms on average."""
    taken, clock = [], iter(range(1, 100))
    chosen = chosen_arms("trainer_full", "trainer_full_padded", "trainer_bottom3", "published_full")

    def steps(arm, bench, batches):
        taken.append((arm.name, [int(batch.max()) for batch in batches]))
        widths = tuple(int(batch.max()) for batch in batches)
        return Curve(widths, tuple(float(next(clock)) for _ in batches)), None

    for kind in (TrainerArm, LoopArm):
        monkeypatch.setattr(kind, "steps", steps)
    batches = [np.full(4, width) for width in (8, 16, 24, 32)]
    monkeypatch.setattr(measure, "batches_of", lambda arms, *_: {arm.name: batches for arm in arms})
    found = measure_round(bench, [task_lengths("mrpc")], chosen, 4)
    assert taken[0] == ("trainer_full", [32])  # the widest warms up
    assert taken[1:] == [
        ("trainer_full", [8, 24]),
        ("trainer_bottom3", [8, 24]),
        ("published_full", [8, 24]),
        ("trainer_full_padded", [8, 16, 24, 32]),
        ("published_full", [16, 32]),
        ("trainer_bottom3", [16, 32]),
        ("trainer_full", [16, 32]),
    ]
    assert found["trainer_bottom3"].step == Curve((8, 24, 16, 32), (4.0, 5.0, 14.0, 15.0))
    means = {name: float(np.mean(one.step.seconds)) for name, one in found.items()}
    assert set(means.values()) == {9.5}


def test_the_padded_arm_is_measured_in_the_first_of_all_rounds(bench):
    """Its one cost stands beside each of the others'."""
    chosen = chosen_arms("trainer_full", "trainer_full_padded")
    assert [[arm.name for arm in arms_of_round(chosen, number)] for number in (0, 1, 2)] == [
        ["trainer_full", "trainer_full_padded"],
        ["trainer_full"],
        ["trainer_full"],
    ]
    rounds = [{"trainer_full": Round(Curve((50,), (seconds,)))} for seconds in (2.0, 4.0, 1.0)]
    rounds[0]["trainer_full_padded"] = Round(Curve((256,), (8.0,)))
    task = replace(task_lengths("mrpc"), lengths=np.full(3668, 50))
    (found,) = combine(rounds, [task], chosen, bench.setting)
    to_padded = found["arms"][0]["ratio_to"]["trainer_full_padded"]
    assert to_padded == pytest.approx((4.0, 1.5))  # 4, 2, 8: (8 - 2) / 4


@pytest.mark.parametrize(
    ("name", "device", "warm", "timed"),
    [
        ("trainer_full", "cpu", [8], [12, 16, 24]),
        ("trainer_full_padded", "cpu", [8], [64, 64, 64]),
        ("trainer_full", "cuda", [12, 16, 24], [12, 16, 24]),
        ("trainer_full_padded", "cuda", [12, 64, 64], [64, 64, 64]),
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
    monkeypatch.setattr(trainer, "clock_of", lambda _: iter(range(100)).__next__)
    arm = ARMS[name] if ARMS[name].pad_to is None else replace(ARMS[name], pad_to=64)
    curve, _ = arm.steps(bench, [np.full(4, width) for width in (12, 16, 24)])
    assert widths == warm + timed
    timed = timed[:1] if name == "trainer_full_padded" else timed  # the shortest of the padded ones
    assert curve == Curve(tuple(timed), (1,) * len(timed))  # this clock goes by one per step


@pytest.mark.parametrize(("name", "halved"), [("trainer_full", True), ("trainer_full_fp32", False)])
def test_trainer_as_it_comes_computes_in_fp32_beside_arms_in_bf16(name, halved, bench, monkeypatch):
    seen = []
    real = ForTrainer.forward

    def forward(model, input_ids, attention_mask, labels):
        seen.append(torch.is_autocast_enabled("cpu"))
        return real(model, input_ids, attention_mask, labels)

    monkeypatch.setattr(ForTrainer, "forward", forward)
    in_bf16 = replace(bench, setting=replace(bench.setting, precision="bf16"))
    ARMS[name].steps(in_bf16, [np.full(4, 12)])
    assert set(seen) == {halved}


def test_the_time_of_a_step_is_shared_out_among_its_operations(tmp_path):
    arm = ARMS["fast_top3"]
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
    monkeypatch.setattr(step, "seconds_by_operation", lambda *_: next(profiles))
    shares = measure_breakdown(bench.setting, ARMS["fast_top3"])["shares"]
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
    copies, damaged = read_folders(tmp_path / "scratch/tables/runs")
    own = [json.loads(record.read_text())["identity"]["config_sha256"] for record in records]
    hashes = {copy.identity.config_sha256 for copy in copies.values()}
    assert set(own) < hashes and len(hashes) == 5 and damaged == {}
    with pytest.raises(FileNotFoundError, match="no records"):
        once.tables_seconds(setting, tmp_path / "nowhere")


def test_sentences_are_tokenised_by_the_second(tmp_path, monkeypatch):
    monkeypatch.setattr(once, "TRIES", 1)
    assert tokenising_rate(Setting(("model=tiny_bert",), "demo", tmp_path)) > 100


@pytest.mark.slow
@pytest.mark.whole  # two interpreters, which import all that a run does
def test_a_process_is_timed_to_its_first_step(tmp_path, monkeypatch, repo):
    monkeypatch.chdir(repo)
    assert 0.5 < start_seconds(Setting(("model=tiny_bert",), "demo", tmp_path)) < 120
    assert not list(tmp_path.glob("**/runs/*.json"))  # it ends before there is a record


@pytest.mark.parametrize("name", ["trainer_full", "trainer_full_padded", "trainer_lora", "trainer_middle3"])
def test_an_arm_of_the_trainer_trains_what_it_says(name, bench, lengths):
    arm = ARMS[name] if ARMS[name].pad_to is None else replace(ARMS[name], pad_to=64)
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
        assert trained(bench) == EXPECTED[name.split("_")[-1]]


def test_all_arms_have_names_of_their_own(tmp_path):
    assert len(ARMS) == 18 and list(ARMS) == [arm.name for arm in ARMS.values()]
    assert {name.split("_")[0] for name in ARMS} == {"trainer", "published", "fast"}
    assert all(arm.facts["lowest"] == min(arm.layers) for arm in ARMS.values() if arm.layers)
