"""What a plan runs: jobs in processes of their own, and what is made of what they found."""

from __future__ import annotations

from dataclasses import replace

import pytest
from programs import program

from layertune.benchmark import chart as chart_module
from layertune.benchmark import jobs, render
from layertune.benchmark.jobs import Plan
from layertune.benchmark.project import Curve, Round


def test_jobs_are_kept_as_they_end_and_rounds_projected(tmp_path):
    plan = Plan(tmp_path, tasks=("mrpc",), parts=("tasks", "memory"), arms=("a", "f"), rounds=2)
    curve = {"a": Round(Curve((50,), (4.0,))), "f": Round(Curve((50,), (2.0,)))}
    found = {("tasks", "round 2"): curve, ("memory", "h1"): {"arm": "h1"}, ("memory", "a"): {"arm": "a"}}
    parts = jobs._parts(plan, found, plan.setting("machine", plan.base, "mrpc"))
    assert [line["arm"] for line in parts["memory"]] == ["a", "h1"] and parts["real"] == []  # in order
    assert parts["rounds"][0]["f"]["step"] == {"widths": (50,), "seconds": (2.0,)}
    assert [line["ratio"] for line in parts["tasks"][0]["arms"]] == pytest.approx([1.0, 2.0])


def test_a_plan_runs_each_job_in_a_process_and_names_what_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(jobs, "IN_MEMORY", ("h10", "no such arm"))
    plan = Plan(tmp_path, hidden_size=24, parts=("tasks", "memory"), tasks=("mrpc",), arms=("a", "h10"))
    saved = []
    content = jobs.run_plan(replace(plan, rounds=1, steps=1), saved.append)
    assert len(saved) == 3 and saved[-1] is content
    assert sorted(content["jobs"]) == ["memory h10", "tasks round 1"]
    assert content["failed"] == ["memory no such arm: KeyError: 'no such arm'"]
    assert [line["arm"] for line in content["tasks"][0]["arms"]] == ["a", "h10"]
    (line,) = content["memory"]
    assert 0 < line["before"] < line["bytes"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "nope"], "invalid choice: 'nope'"),
        (["--arms", "a", "hh"], "invalid choice: 'hh'"),
        (["--arms", "c"], "--arms needs a"),
        (["--parts"], "expected at least one argument"),
        (["--parts", "real"], "real needs --model-path and --data-dir"),
        (["--parts", "real", "--model-path", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_a_wrong_word_is_said_before_anything_is_measured(words, said, repo, monkeypatch, capsys):
    assert program(repo / "scripts" / "bench.py", words, monkeypatch) == 2
    assert said in capsys.readouterr().err


def test_the_results_in_the_repository_are_of_a_whole_plan_alone(tmp_path):
    whole = Plan(tmp_path, model_path="m", data_dir="d", workers=1)
    assert whole.whole
    for change in ({"arms": ("a", "h10")}, {"hidden_size": 192}, {"rounds": 1}, {"data_dir": None}):
        assert not replace(whole, **change).whole
    assert not replace(whole, parts=("tasks",)).whole


def test_a_part_goes_to_the_scratch_folder_and_what_failed_to_the_exit_code(repo, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    failing = {"failed": ["tasks round 1: no memory"]}
    monkeypatch.setattr(jobs, "run_plan", lambda plan, save: save(failing) or failing)
    monkeypatch.setattr(chart_module, "chart", lambda content, path: None)
    monkeypatch.setattr(render, "markdown", lambda content: "a page")
    code = program(repo / "scripts" / "bench.py", ["--parts", "tasks"], monkeypatch)
    assert code == "not measured: tasks round 1: no memory"
    assert (tmp_path / "outputs" / "benchmark" / "cpu.md").read_text() == "a page"
    assert not (tmp_path / "results").exists()
