"""The arms of the benchmark on a tiny model: each trains what it says, and reports what it spent."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from layertune.benchmark import arms
from layertune.benchmark.arms import Bench, Setting, bert_base, loop_arms
from layertune.benchmark.end_to_end import measure_growth
from layertune.benchmark.jobs import Plan, all_arms, jobs_of
from layertune.benchmark.lengths import random_batches, task_lengths, typical
from layertune.benchmark.once import start_seconds, tokenising_rate
from layertune.benchmark.trainer_arms import trainer_arms

TINY = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "vocab_size": 20000,
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    folder = tmp_path_factory.mktemp("bench")
    return Bench.start(Setting(bert_base(**TINY), "sst2_glue", folder, batch_size=4))


@pytest.fixture(scope="module")
def lengths():
    return task_lengths("sst2_glue").lengths[:1000]


def trained(bench: Bench) -> set[int]:
    layers = bench.model.backbone.layers
    return {i + 1 for i, layer in enumerate(layers) if all(p.requires_grad for p in layer.parameters())}


EXPECTED = {"f": set(range(1, 13)), "10": {10, 11, 12}, "5": {5, 6, 7}, "4": {4, 8, 12}, "1": {1, 2, 3}}


@pytest.mark.parametrize("arm", [arm for arm in loop_arms() if arm.name in ("f", "g4", "h10", "h5", "h1")])
def test_an_arm_of_the_loop_trains_its_layers_and_counts_its_parts(arm, bench, lengths):
    found = arm.round(bench, typical(random_batches(lengths, 4, 0), 2), lengths)
    assert trained(bench) == EXPECTED[arm.name.lstrip("gh")]
    assert found.step_seconds > 0
    assert (found.cache_per_example > 0) == (arm.name in ("h10", "h5"))
    assert (found.selection_seconds > 0) == (arm.name[0] == "h")
    assert (found.selection_per_example > 0) == (arm.name[0] == "g")


@pytest.mark.parametrize("name", ["f", "h10"])
def test_a_step_of_the_loop_is_timed_without_the_one_that_warms_up(name, bench, lengths, monkeypatch):
    outcome = SimpleNamespace(steps=3, seconds=8.0, cpu_seconds=6.0, cache=SimpleNamespace(layer=None))
    monkeypatch.setattr(arms, "train", lambda *_: outcome)
    arm = next(arm for arm in loop_arms() if arm.name == name)
    assert arm.round(bench, typical(random_batches(lengths, 4, 0), 2), lengths).step_seconds == 3.0


def test_whole_trainings_grow_with_examples_and_epochs(bench, lengths):
    arm = next(arm for arm in loop_arms() if arm.name == "h10")
    found = measure_growth(bench, arm, lengths, [(40, 1), (80, 2)])
    assert [(line["examples"], line["epochs"]) for line in found] == [(40, 1), (80, 2)]
    assert all(0 < line["selection"] < line["seconds"] for line in found)


def test_a_process_is_timed_to_its_first_step_and_sentences_by_the_second(tmp_path):
    setting = Setting(("model=tiny_bert",), "demo", tmp_path)
    assert 0.5 < start_seconds(setting) < 120
    assert tokenising_rate(setting) > 100
    assert not list(tmp_path.glob("**/runs/*.json"))  # it ends before there is a record


@pytest.mark.parametrize("arm", [arm for arm in trainer_arms(64) if arm.name in ("a", "c", "d", "e5")])
def test_an_arm_of_the_trainer_trains_what_it_says(arm, bench, lengths):
    pytest.importorskip("peft") if arm.lora else None
    found = arm.round(bench, typical(random_batches(lengths, 4, 0), 2), lengths)
    assert found.step_seconds > 0
    if arm.lora:
        names = {n for n, p in bench.variants["lora"].named_parameters() if p.requires_grad}
        assert {"lora_" in name or name.startswith("head.") for name in names} == {True}
        assert sum("lora_A" in name for name in names) == 24  # queries and values of 12 layers
    else:
        assert trained(bench) == (EXPECTED["5"] if arm.layers else EXPECTED["f"])


def test_all_arms_have_names_of_their_own(tmp_path):
    names = [arm.name for arm in all_arms()]
    assert len(set(names)) == len(names) == 17
    assert {name[0] for name in names} == set("abcdefgh")
    plan = Plan(tmp_path, tasks=("sst2",))
    assert ("tasks", "sst2") in jobs_of(plan)
    assert not any(part == "real" for part, _ in jobs_of(plan))  # no data were named
