"""What layertune wants to reach, as numbers, each beside what a result file holds: arithmetic, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from layertune.benchmark.project import WALL, WIDEST, ends, growth_of

RATIOS = {  # task -> arm -> times as fast as (a): k = 3, 3 epochs, everything included
    "sst2_glue": {"h10": 6.5, "h5": 3.8, "h4": 3.6, "h1": 2.8},
    "sst2": {"h10": 5.5, "h5": 3.2, "h4": 3.0, "h1": 2.3},
    "mrpc": {"h10": 5.0, "h5": 2.8, "h4": 2.5, "h1": 1.9},
    "qnli": {"h10": 4.5, "h5": 2.5, "h4": 2.3, "h1": 1.8},
    "trec": {"h10": 5.0},
}
ON_CUDA = {"sst2": {"h10": 10.0}}  # the same where a CUDA device trains every step
STEP_MILLISECONDS = 2.0  # of a cached l = 10 step in bf16 on an H200, at `STEP_WIDTH` tokens
STEP_WIDTH = 32
AT_ONCE = 6.0  # times the steps per second of one run, by `RUNS`
RUNS = 16
TO_LORA = {"h10": 4.0}
TO_PADDED = {"trec": {"h10": 40.0}}
MEMORY = {"h10": 1 / 3, "h5": 1 / 2, "h1": 2 / 3}  # share of (a)'s peak
SELECTION = 0.01  # share of training, from MANY examples on
MANY = 4000
OFF_LINE = 0.1  # share by which a training may differ from a cost linear in examples and epochs
START_SECONDS = 10.0
TABLES_SECONDS = 10.0
TOKENISED = 15_000.0  # sentences per second of a core


@dataclass(frozen=True)
class Judged:
    """A goal and what was measured.

    Attributes:
        what: in words.
        goal: the bound.
        at_least: whether the bound is a lower one.
        found: the number; None where the rounds differ too much to print one.
        rounds: then the least and the largest of them, which may all lie on one side of the goal.
    """

    what: str
    goal: float
    at_least: bool
    found: float | None
    rounds: tuple[float, float] | None = None

    @property
    def verdict(self) -> str:
        """`met`, `missed` or `too noisy`."""
        found = self.rounds if self.found is None else (self.found,)
        verdicts = {(value >= self.goal) == self.at_least or value == self.goal for value in found or ()}
        if len(verdicts) != 1:
            return "too noisy"
        return "met" if verdicts.pop() else "missed"


def judge(content: dict[str, Any]) -> list[Judged]:
    """Return every goal of which the result file holds a number."""
    if content["machine"]["clock"] == WALL:
        return [goal for task in content["real"] for goal in _on_cuda(task)] + list(
            _of_memory(content["memory"])
        )
    found = [goal for task in (*content["real"], *content["tasks"]) for goal in _of_task(task)]
    found += _of_memory(content["memory"])
    found += _of_growth(content["growth"])
    for line in content["once"]:
        if line["what"] == "start":
            found.append(Judged("seconds from start to first step", START_SECONDS, False, line["seconds"]))
        elif line["what"] == "tables":
            what = f"seconds of tables from {line['records']:,} records"
            found.append(Judged(what, TABLES_SECONDS, False, line["seconds"]))
        else:
            rate = line["sentences_per_second"]
            found.append(Judged("sentences tokenised per second", TOKENISED, True, rate))
    return found


def judge_gpu(content: dict[str, Any]) -> list[Judged]:
    """Return the goals of which the measurements of steps and of runs at once hold a number."""
    found = [
        Judged(
            f"milliseconds of a cached step, l = 10, bf16, {STEP_WIDTH} tokens (the goal is an H200's)",
            STEP_MILLISECONDS,
            False,
            line["milliseconds"],
        )
        for line in content["steps"]
        if (line["arm"], line["precision"], line["width"]) == ("h10", "bf16", STEP_WIDTH)
    ]
    rates = {line["runs"]: line["steps_per_second"] for line in content["at_once"]}
    if {1, RUNS} <= set(rates):
        found.append(Judged(f"{RUNS} runs at once: times one", AT_ONCE, True, rates[RUNS] / rates[1]))
    return found


def _on_cuda(task: dict[str, Any]) -> Iterator[Judged]:
    for line in task["arms"]:
        goal = ON_CUDA.get(task["task"], {}).get(line["arm"])
        if goal is not None:
            yield _of_ratio(f"{task['task']}, {line['arm']}: times (a)", goal, line["ratio"], line["spread"])


def _of_task(task: dict[str, Any]) -> Iterator[Judged]:
    name = task["task"]
    projected = {line["arm"] for line in task["arms"] if line["projected"]}
    for line in task["arms"]:
        arm, others = line["arm"], line["ratio_to"]
        wanted = (
            ("a", (line["ratio"], line["spread"]), RATIOS.get(name, {}).get(arm)),
            ("c", others.get("c"), TO_PADDED.get(name, {}).get(arm)),
            ("d", others.get("d"), TO_LORA.get(arm)),
        )
        for other, measured, goal in wanted:
            if measured is not None and goal is not None:
                how = " (projected)" if projected & {arm, other} else ""
                yield _of_ratio(f"{name}, {arm}: times ({other}){how}", goal, *measured)
        seconds = line["seconds"]
        # Projected from random weights: how many examples decide the layers is no property of the task there.
        if arm == "h10" and task["examples"] >= MANY and arm not in projected:
            share = seconds["selection"] / seconds["training"]
            yield Judged(f"{name}, {arm}: selection as share of training", SELECTION, False, share)


def _of_ratio(what: str, goal: float, ratio: float, spread: float | None) -> Judged:
    if spread is None or spread <= WIDEST:
        return Judged(what, goal, True, ratio)
    return Judged(what, goal, True, None, ends(ratio, spread))


def held(memory: list[dict[str, Any]]) -> dict[str, float]:
    """Return the peak memory of each arm in bytes, without what was held before there was a model."""
    return {line["arm"]: line["bytes"] - line["before"] for line in memory}


def growth_in(rows: list[dict[str, Any]]) -> tuple[float, float, float, float]:
    """Return what `growth_of` fits to whole trainings."""
    return growth_of([(row["examples"], row["epochs"], row["seconds"]) for row in rows])


def _of_memory(lines: list[dict[str, Any]]) -> Iterator[Judged]:
    own = held(lines)
    for arm, goal in MEMORY.items():
        if arm in own and "a" in own:
            yield Judged(f"{arm}: peak memory as share of (a)", goal, False, own[arm] / own["a"])


def _of_growth(parts: list[dict[str, Any]]) -> Iterator[Judged]:
    for part in parts:
        rows = part.get("examples and epochs", [])
        if len(rows) > 3:  # three parts fit three trainings exactly
            yield Judged(
                "growth with examples and epochs: share off a line", OFF_LINE, False, growth_in(rows)[-1]
            )
