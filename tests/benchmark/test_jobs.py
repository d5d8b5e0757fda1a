"""What a plan runs: jobs in processes of their own, and what is made of what they found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.benchmark import __main__ as command
from scripts.benchmark import jobs
from scripts.benchmark.jobs import BenchmarkPlan, jobs_of
from scripts.benchmark.project import Curve, Round


def test_jobs_are_kept_as_they_end_and_rounds_projected(tmp_path):
    arms = ("trainer_full", "published_full")
    plan = BenchmarkPlan(tmp_path, tasks=("mrpc",), parts=("tasks", "memory"), arms=arms)
    curve = {"trainer_full": Round(Curve((50,), (4.0,))), "published_full": Round(Curve((50,), (2.0,)))}
    found = {("memory", arm): {"arm": arm} for arm in ("fast_bottom3", "trainer_full")}
    found["tasks", "round 2"] = curve
    parts = jobs.parts_of(plan, found)
    assert [line["arm"] for line in parts["memory"]] == ["trainer_full", "fast_bottom3"]  # in order
    assert parts["real"] == []
    assert parts["rounds"][0]["published_full"]["step"] == {"widths": (50,), "seconds": (2.0,)}
    assert [line["ratio"] for line in parts["tasks"][0]["arms"]] == pytest.approx([1.0, 2.0])


@pytest.mark.slow
def test_a_plan_runs_each_job_in_a_process_and_names_what_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(jobs, "IN_MEMORY", ("fast_top3", "no such arm"))
    arms = ("trainer_full", "fast_top3")
    plan = BenchmarkPlan(tmp_path, hidden_size=24, parts=("tasks", "memory"), tasks=("mrpc",), arms=arms)
    saved = []
    content = jobs.run_plan(replace(plan, rounds=1, steps=1), saved.append)
    assert len(saved) == 3 and saved[-1] is content
    assert sorted(content["jobs"]) == ["memory fast_top3", "tasks round 1"]
    assert content["failed"] == ["memory no such arm: KeyError: 'no such arm'"]
    assert [line["arm"] for line in content["tasks"][0]["arms"]] == ["trainer_full", "fast_top3"]
    (line,) = content["memory"]
    assert 0 < line["before"] < line["bytes"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "nope"], "invalid choice: 'nope'"),
        (["--arms", "trainer_full", "hh"], "invalid choice: 'hh'"),
        (["--arms", "trainer_full_padded"], "--arms needs trainer_full"),
        (["--parts"], "expected at least one argument"),
        (["--parts", "real"], "real needs --model-path and --data-dir"),
        (["--parts", "real", "--model-path", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_a_wrong_word_is_said_before_anything_is_measured(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        command.main(["cpu", *words])
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_the_results_in_the_repository_are_of_a_whole_plan_alone(tmp_path):
    whole = BenchmarkPlan(tmp_path, model_path="m", data_dir="d", workers=1)
    assert whole.whole
    for change in ({"arms": ("trainer_full",)}, {"hidden_size": 192}, {"rounds": 1}, {"data_dir": None}):
        assert not replace(whole, **change).whole
    assert not replace(whole, parts=("tasks",)).whole


def test_a_part_goes_to_the_scratch_folder_and_what_failed_to_the_exit_code(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    where = jobs.machine(BenchmarkPlan(tmp_path).setting("machine"))
    where |= {"load_after": [0.0, 0.0, 0.0], "minutes": 1.0, "workers": 2}
    failing = {part: [] for part in (*jobs.PARTS, "rounds")} | {"machine": where, "jobs": {}}
    failing["failed"] = ["tasks round 1: no memory"]
    monkeypatch.setattr(jobs, "run_plan", lambda plan, save: save(failing) or failing)
    with pytest.raises(SystemExit, match="not measured: tasks round 1: no memory"):
        command.main(["cpu", "--parts", "tasks"])
    assert "- tasks round 1: no memory" in (tmp_path / "outputs" / "benchmark" / "cpu.md").read_text()
    assert not (tmp_path / "results").exists()


def test_trainer_in_fp32_is_an_arm_of_its_own_where_the_others_are_in_bf16(tmp_path):
    own = {
        precision: {arm.name for arm in BenchmarkPlan(tmp_path, precision=precision).chosen}
        for precision in ("fp32", "bf16")
    }
    assert own["bf16"] - own["fp32"] == {"trainer_full_fp32"} and own["fp32"] < own["bf16"]


def test_jobs_are_those_of_the_parts_asked_for(tmp_path):
    plan = BenchmarkPlan(tmp_path, tasks=("sst2",))
    assert "profile" not in {part for part, _ in jobs_of(plan)}  # only on request
    assert jobs_of(BenchmarkPlan(tmp_path, parts=("profile",))) == [
        ("profile", "fast_top3"),
        ("profile", "fast_middle3"),
    ]
    assert [name for part, name in jobs_of(plan) if part == "tasks"] == ["round 1", "round 2"]
    assert not any(part == "real" for part, _ in jobs_of(plan))  # no data were named
