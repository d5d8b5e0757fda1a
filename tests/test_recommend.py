"""Successive halving keeps the better arms and its budget, and takes the cheapest where nothing differs."""

from __future__ import annotations

import csv
import shlex

import pytest

from layertune import cli
from layertune.baselines import Baseline
from layertune.config.compose import compose_run
from layertune.pipeline import execute
from layertune.recommend import (
    Arm,
    Tried,
    arms,
    choice,
    front,
    not_beaten,
    passes,
    scored_rows,
    successive_halving,
    table,
)
from layertune.records import Store

ARMS = arms(12)


def of(arm, rows, score=0.5, error=0.01, work=1, seconds=1.0, memory=None):
    return Tried(arm, rows, score, error, 90, seconds, memory, (1,), work=work)


def test_every_strategy_is_tried_with_a_quarter_and_a_half_of_the_layers_at_two_rates():
    assert (
        len(ARMS) == 12
        and {arm.k for arm in ARMS} == {3, 6}
        and len({arm.learning_rate for arm in ARMS}) == 2
    )
    assert {arm.k for arm in arms(2)} == {1}


class Clock:
    """A clock that arms move, by ten seconds each where nothing else is said."""

    def __init__(self, cost=lambda arm, rows: 10.0, score=lambda arm: 0.5):
        self.now, self.asked, self.cost, self.score = 0.0, [], cost, score

    def __call__(self):
        return self.now

    def run(self, arm, rows):
        self.asked.append((rows, arm))
        self.now += self.cost(arm, rows)
        return of(arm, rows, self.score(arm))

    def search(self, budget):
        return successive_halving(ARMS, 1800, self.run, budget, self)

    def rows(self):
        return [sum(rows == size for rows, _ in self.asked) for size in (200, 600, 1800)]


def test_whenever_a_budget_ends_each_strategy_has_been_tried_and_the_rest_is_named():
    search = Clock().search(budget=45.0)
    assert {one.arm for one in search.tried} == {*ARMS[:4]} and search.never == (*ARMS[4:],)
    assert "4 of 12 arms on 200 rows, 0 of 4" in search.ended and "0 of 2 arms on 1,800" in search.ended
    assert all(str(arm) in search.ended for arm in search.never)
    assert not Clock().search(budget=None).ended


def test_time_for_the_two_best_on_all_rows_is_set_aside_before_more_arms_are_tried():
    clock = Clock(cost=lambda arm, rows: rows / 100)  # 2 s, 6 s, 18 s
    search = clock.search(budget=52.0)  # 36 s are set aside, 16 s are left
    assert clock.rows() == [8, 0, 2] and clock.now == 52.0
    assert "8 of 12 arms on 200 rows" in search.ended and "0 of 4 arms on 600" in search.ended
    clock = Clock(cost=lambda arm, rows: rows / 100)
    clock.search(budget=72.0)
    assert clock.rows() == [12, 2, 2] and clock.now == 72.0


def test_the_last_round_ends_earlier_where_it_would_take_more_than_three_quarters_of_the_budget():
    clock = Clock(cost=lambda arm, rows: rows / 100)
    clock.search(budget=40.0)  # 36 s are more than 30 s: 12 s for two arms on 600 rows are set aside
    assert clock.rows() == [12, 2, 0] and clock.now == 36.0


@pytest.mark.parametrize("budget", [100.0, 200.0, 400.0, 800.0])
def test_a_budget_is_kept_where_the_best_arms_are_the_dearest(budget):
    clock = Clock(lambda arm, rows: rows * (1 + ARMS.index(arm)) / 100, lambda arm: ARMS.index(arm) / 100)
    search = clock.search(budget)
    assert clock.now <= budget and search.compares


def test_a_budget_shorter_than_two_arms_compares_nothing_and_one_of_two_arms_compares_two_strategies():
    assert not Clock().search(budget=15.0).compares
    search = Clock().search(budget=20.0)
    assert search.compares and {one.arm.method for one in search.tried} == {"low_k", "high_k"}


def test_an_arm_that_comes_from_its_record_is_expected_to_take_what_that_says():
    clock = Clock(cost=lambda arm, rows: 0.0)

    def run(arm, rows):
        return Tried(arm, rows, 0.5, 0.01, 90, 1.0, None, (1,), cost=rows / 10)

    search = successive_halving(ARMS, 1800, run, 150.0, clock)
    assert [one.tried for one in search.rounds] == [12, 4, 0]  # two of 60 s of 150 s each time, not of 180 s


def test_an_arm_on_few_rows_is_scored_on_few_and_the_last_on_all():
    assert [scored_rows(size, 1800, 900) for size in (200, 600, 1800)] == [300, 900, 900]
    assert scored_rows(200, 1800, 180) == 64 and scored_rows(200, 1800, 40) == 40


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


def test_the_cheapest_is_taken_where_nothing_differs_beyond_noise_and_the_best_otherwise():
    dear, cheap = of(ARMS[0], 9, 0.90, work=9), of(ARMS[1], 9, 0.89, work=2, seconds=99.0)  # a busy machine's
    assert choice([dear, cheap]) == (cheap, True)  # 0.01 < sqrt(2) * 0.01
    better = of(ARMS[2], 9, 0.895, work=2)
    assert choice([dear, cheap, better]) == (better, True)
    worse = of(ARMS[1], 9, 0.88, work=2)
    assert choice([dear, worse]) == (dear, False)
    assert front([dear, worse, of(ARMS[2], 9, 0.87, work=3)]) == {ARMS[0], ARMS[1]}
    simple = [Baseline("majority class", {"accuracy": 0.5}, 0.0)]
    assert not not_beaten([dear, worse], "accuracy", simple)
    assert "TF-IDF" in not_beaten(
        [dear, worse], "accuracy", [*simple, Baseline("TF-IDF", {"accuracy": 0.9}, 0.0)]
    )
    lines = table([dear, worse], "accuracy", simple, 90).splitlines()
    assert [line.endswith("*") for line in lines[2:]] == [True, True, False, False]
    assert lines[4].startswith("majority class") and "50.0" in lines[4] and "held-out rows" in lines[5]


def test_the_front_counts_memory_too():
    dear, large = of(ARMS[0], 9, work=2, memory=100), of(ARMS[1], 9, work=1, memory=200)
    assert front([dear, large, of(ARMS[2], 9, work=2, memory=200)]) == {ARMS[0], ARMS[1]}


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
    assert "majority class" in out and "time for" not in out
    assert err.count("tenth") <= 1 and err.count("labels:") <= 1
    assert not stopped.value.code and out.count("low_k") >= 4 and "accuracy" in out and "front" in out
    command = shlex.split(out.strip().splitlines()[-1])
    assert command[:2] == ["layertune", "fit"] and "train.epochs=1" in command
    with pytest.raises(SystemExit) as stopped:
        cli.main(command[1:])
    assert not stopped.value.code and (tmp_path / "my-model" / "config.json").is_file()


def test_a_budget_that_ends_before_two_arms_says_so_in_a_sentence_and_recommends_nothing(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"the {word} film {i},{word}\n" for i in range(40) for word in ("good", "bad"))
    (tmp_path / "a.csv").write_text("text,label\n" + rows)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["recommend", "tiny_bert", "a.csv", "--budget", "0.01s"])
    out = capsys.readouterr().out
    assert not stopped.value.code and "no comparison" in out and "layertune fit" not in out


def test_a_budget_is_a_time(capsys):
    with pytest.raises(SystemExit):
        cli.main(["recommend", "tiny_bert", "a.csv", "--budget", "soon"])
    assert "10m" in capsys.readouterr().err


def test_an_arm_says_itself_in_the_words_of_run_py():
    assert Arm("low_k", 3, 1e-4).words == ["method=low_k", "method.k=3", "train.learning_rate=0.0001"]


def test_passes_are_counted_forwards_from_the_cache_back_to_the_lowest_layer_and_for_the_weights(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text(
        "text,label\n" + "".join(f"a {w} film {i},{w}\n" for i in range(20) for w in "xy")
    )
    words = ("model=tiny_bert", "task=own", "own.train=a.csv", "method=layers", "method.layers=[3,4]")
    records = [
        execute(run, Store(run.results_dir, run.outputs_dir))
        for mode in ("fast", "published")
        for run in [
            compose_run(*words, f"train={mode}", "train.epochs=2", "tracking=disabled", "results_dir=r")
        ]
    ]
    assert [passes(record) for record in records] == [2 + 2 + 2, 4 + 2 + 2]
