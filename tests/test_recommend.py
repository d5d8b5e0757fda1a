"""Successive halving keeps the better arms and its budget, and takes the cheapest where nothing differs."""

from __future__ import annotations

import csv
import shlex

import pytest

from layertune import cli
from layertune.baselines import Baseline
from layertune.recommend import Arm, Tried, arms, choice, front, last_round, successive_halving, table

ARMS = arms(12)


def of(arm, rows, score=0.5, error=0.01, seconds=1.0):
    return Tried(arm, rows, score, error, seconds, None, (1,))


def test_every_strategy_is_tried_with_a_quarter_and_a_half_of_the_layers_at_two_rates():
    assert (
        len(ARMS) == 12
        and {arm.k for arm in ARMS} == {3, 6}
        and len({arm.learning_rate for arm in ARMS}) == 2
    )
    assert {arm.k for arm in arms(2)} == {1}


def test_whenever_a_budget_ends_each_strategy_has_been_tried_and_the_rest_is_named():
    assert {arm.method for arm in ARMS[:3]} == {arm.method for arm in ARMS}
    now = [0.0]

    def run(arm, rows):
        now[0] += 10
        return of(arm, rows)

    search = successive_halving(ARMS, 1800, run, budget=45.0, clock=lambda: now[0])
    tried = {one.arm for one in search.tried}
    assert len(tried) == 5 and [*ARMS[5:]] == search.left_out
    assert "7 arms" in search.ended and "200 rows" in search.ended and "1,800" in search.ended
    assert all(str(arm) in search.ended for arm in search.left_out)
    assert not successive_halving(ARMS, 1800, run).ended


def test_a_third_goes_on_with_three_times_the_rows_and_two_see_all():
    asked = []

    def run(arm, rows):
        asked.append(rows)
        return of(arm, rows, score=ARMS.index(arm) / 100)

    found = successive_halving(ARMS, 1800, run).tried
    assert [asked.count(rows) for rows in (200, 600, 1800)] == [12, 4, 2] and len(asked) == 18
    assert [one.arm for one in found[:2]] == [ARMS[11], ARMS[10]]
    asked.clear()
    successive_halving(ARMS, 100, run)
    assert asked == [100] * 12  # too few rows for a first round


def test_an_arm_that_would_not_end_in_time_is_not_begun():
    now = [0.0]

    def run(arm, rows):
        now[0] += rows / 100
        return of(arm, rows, seconds=rows / 100)

    found = successive_halving(ARMS, 1800, run, budget=40.0, clock=lambda: now[0]).tried
    assert now[0] <= 40.0 and {one.rows for one in found} == {200, 600}  # 12 x 2 s, 2 x 6 s: 36 s
    assert len(last_round(found)) == 2


def test_the_cheapest_is_taken_where_nothing_differs_beyond_noise_and_the_best_otherwise():
    slow, fast = of(ARMS[0], 9, 0.90, seconds=9.0), of(ARMS[1], 9, 0.89, seconds=2.0)
    assert choice([slow, fast]) == (fast, True)  # 0.01 < sqrt(2) * 0.01
    worse = of(ARMS[1], 9, 0.88, seconds=2.0)
    assert choice([slow, worse]) == (slow, False)
    assert front([slow, worse, of(ARMS[2], 9, 0.87, seconds=3.0)]) == {ARMS[0], ARMS[1]}
    simple = [Baseline("majority class", {"accuracy": 0.5}, 0.0)]
    lines = table([slow, worse], "accuracy", simple, 90).splitlines()
    assert [line.endswith("*") for line in lines[2:]] == [True, True, False, False]
    assert lines[4].startswith("majority class") and "50.0" in lines[4] and "90 held-out rows" in lines[5]


def test_the_front_counts_memory_too():
    slow = Tried(ARMS[0], 9, 0.9, 0.01, 2.0, 100, (1,))
    large = Tried(ARMS[1], 9, 0.9, 0.01, 1.0, 200, (1,))
    beaten = Tried(ARMS[2], 9, 0.9, 0.01, 2.0, 200, (1,))
    assert front([slow, large, beaten]) == {ARMS[0], ARMS[1]}


@pytest.mark.slow
def test_the_command_prints_the_table_and_a_command_that_fit_understands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [
        (f"the {word} film {i}", word in "great best")
        for i in range(20)
        for word in ("great", "best", "bad", "dull")
    ]
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    with pytest.raises(SystemExit) as stopped:
        cli.main(["recommend", "tiny_bert", "a.csv", "train.epochs=1", "--budget", "1h"])
    out, err = capsys.readouterr()
    assert "(7 held-out rows" in out and "majority class" in out and "budget ended" not in out
    assert err.count("tenth") <= 1 and err.count("labels:") <= 1
    assert not stopped.value.code and out.count("low_k") >= 4 and "accuracy" in out and "front" in out
    command = shlex.split(out.strip().splitlines()[-1])
    assert command[:2] == ["layertune", "fit"] and "train.epochs=1" in command
    with pytest.raises(SystemExit) as stopped:
        cli.main(command[1:])
    assert not stopped.value.code and (tmp_path / "my-model" / "config.json").is_file()


def test_a_budget_is_a_time(capsys):
    with pytest.raises(SystemExit):
        cli.main(["recommend", "tiny_bert", "a.csv", "--budget", "soon"])
    assert "10m" in capsys.readouterr().err


def test_an_arm_says_itself_in_the_words_of_run_py():
    assert Arm("low_k", 3, 1e-4).words == ["method=low_k", "method.k=3", "train.learning_rate=0.0001"]
