"""Which layers, how many, at what rate: successive halving on a held-out part of the training rows.

All arms start on a share of the rows; the better third goes on with three times as many, until the last are
trained on all. They share batches, layer scores and cached states through one outputs folder, and a repeated
request trains nothing twice. The evaluation rows are never read.

Optuna's SuccessiveHalvingPruner would not do. It is asynchronous: the first arm, which has nothing beside it,
would go through all rounds, and a budget would end after few arms on all rows instead of all arms on few.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from layertune.baselines import Baseline
from layertune.records import Record
from layertune.report.rounding import printed
from layertune.report.summary import aligned
from layertune.report.values import split_error

TRIED = ("low_k", "high_k", "random_k")  # random_k: whether looking at the scores is worth it
RATES = (1e-4, 3e-4)
KEPT = 3  # one arm of so many goes on
FINAL = 2  # so many are trained on all rows
LEAST = 64  # rows of the first round


@dataclass(frozen=True)
class Arm:
    """One way to train: which rule chooses how many layers, and the learning rate."""

    method: str
    k: int
    learning_rate: float

    @property
    def words(self) -> list[str]:
        """The words of `run.py` that say so."""
        return [f"method={self.method}", f"method.k={self.k}", f"train.learning_rate={self.learning_rate}"]

    def __str__(self) -> str:
        return f"{self.method}, k={self.k}, rate {self.learning_rate:g}"


@dataclass(frozen=True)
class Tried:
    """What an arm reached on so many training rows.

    Attributes:
        score: on the held-out rows, a fraction; `error` is its standard error, None where it is not known.
        seconds: of choosing layers, filling the cache and training.
        memory: bytes at most; None where it was not measured.
        layers: that were chosen.
    """

    arm: Arm
    rows: int
    score: float
    error: float | None
    seconds: float
    memory: int | None
    layers: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.arm}, {self.rows:,} rows: {100 * self.score:.1f} in {self.seconds:.1f} s"


@dataclass(frozen=True)
class Search:
    """What successive halving did.

    Attributes:
        tried: the last round first, best first within each.
        left_out: the arms of its last round that the budget left no time for; none where it ran to its end.
        rows: that they would have been trained on.
        all_rows: that the last of all rounds trains on.
    """

    tried: list[Tried]
    left_out: list[Arm]
    rows: int
    all_rows: int

    @property
    def ended(self) -> str:
        """What the budget left out, as a sentence; empty where it left out nothing."""
        if not self.left_out:
            return ""
        names, number = "; ".join(map(str, self.left_out)), len(self.left_out)
        counted = "1 arm was" if number == 1 else f"{number} arms were"
        rest = "" if self.rows == self.all_rows else f", and none on all {self.all_rows:,}"
        return (
            f"The budget ended the search: {counted} not trained on {self.rows:,} rows "
            f"({names}){rest}. The same command with a larger --budget goes on from here."
        )


def arms(num_layers: int) -> list[Arm]:
    """Return the arms: each strategy with a quarter and a half of the layers, at two rates.

    The strategies change fastest: a budget that suffices for as many arms ends after each was tried.
    """
    some = sorted({max(1, num_layers // 4), max(1, num_layers // 2)})
    return [Arm(method, k, rate) for k, rate, method in product(some, RATES, TRIED)]


def tried(arm: Arm, record: Record) -> Tried:
    """Read what an arm reached from its record."""
    assert record.training is not None and record.data is not None
    metric, score = record.headline()
    evaluation = next(iter(record.metrics.last)) if record.metrics is not None else ""
    selection = record.selection
    return Tried(
        arm,
        record.data.counts["train"],
        float("-inf") if score is None else score,
        split_error(record, evaluation, metric),
        sum(record.seconds.values()),
        record.training.peak_memory_bytes,
        selection.layers or () if selection is not None else (),
    )


def successive_halving(
    candidates: Sequence[Arm],
    rows: int,
    run: Callable[[Arm, int], Tried],
    budget: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Search:
    """Try arms in rounds of more and more rows.

    Args:
        candidates: the arms.
        rows: all training rows.
        run: trains an arm on so many rows.
        budget: seconds; an arm that would likely not end in time is not begun. None = no limit.
        clock: tells the time.
    """
    rounds = [rows]
    left = len(candidates)
    while left > FINAL and rounds[0] // KEPT >= LEAST:
        rounds.insert(0, rounds[0] // KEPT)
        left = max(FINAL, left // KEPT)
    began, found, going = clock(), [], list(candidates)
    for size in rounds:
        done: list[Tried] = []
        for arm in going:
            before = clock()
            longest = max(
                (one.seconds * size / one.rows for one in (*found, *done) if one.arm == arm), default=0
            )
            if budget is not None and found + done and before - began + longest > budget:
                break
            done.append(run(arm, size))
        done.sort(key=lambda one: (-one.score, one.seconds))
        found = [*done, *found]
        if len(done) < len(going):
            return Search(found, going[len(done) :], size, rows)
        going = [one.arm for one in done[: max(FINAL, len(going) // KEPT)]]
    return Search(found, [], rows, rows)


def front(found: Sequence[Tried]) -> set[Arm]:
    """Return the arms of the last round that no other matches in score, seconds and memory (Pareto)."""
    last = last_round(found)

    def cost(one: Tried) -> tuple[float, float, float]:
        return -one.score, one.seconds, one.memory or 0

    return {
        one.arm
        for one in last
        if not any(
            cost(other) != cost(one) and all(a <= b for a, b in zip(cost(other), cost(one), strict=True))
            for other in last
        )
    }


def last_round(found: Sequence[Tried]) -> list[Tried]:
    """Return what was tried on the most rows that more than one arm was trained on, else on the most."""
    sizes = sorted({one.rows for one in found}, reverse=True)
    several = [size for size in sizes if sum(one.rows == size for one in found) > 1]
    size = (several or sizes)[0]
    return [one for one in found if one.rows == size]


def choice(found: Sequence[Tried]) -> tuple[Tried, bool]:
    """Return the arm to take, and whether it was taken for its cost: others are no better beyond noise.

    Two scores on the same rows differ beyond noise where they are more than the standard error of their
    difference apart, that of independent scores: an upper bound, as the rows are the same.
    """
    last = last_round(found)
    best = max(last, key=lambda one: (one.score, -one.seconds))
    noise = 2**0.5 * (best.error or 0.0)
    alike = [one for one in last if best.score - one.score <= noise]
    return min(alike, key=lambda one: one.seconds), len(alike) > 1


def table(found: Sequence[Tried], metric: str, simple: Sequence[Baseline], held_out: int) -> str:
    """Return all that was tried, best first within each number of rows; * marks the Pareto front.

    Args:
        found: what was tried.
        metric: whose values the scores are.
        simple: what needs no language model, on the same rows.
        held_out: how many rows everything was scored on.
    """
    marked, last = front(found), last_round(found)
    head = ("arm", "k", "rate", "layers", "rows", metric, "±", "seconds", "peak MiB", "front")
    rows = [
        (
            one.arm.method,
            str(one.arm.k),
            f"{one.arm.learning_rate:g}",
            " ".join(map(str, one.layers)),
            f"{one.rows:,}",
            printed(100 * one.score, 1),
            "—" if one.error is None else printed(100 * one.error, 1),
            f"{one.seconds:.1f}",
            "—" if one.memory is None else f"{one.memory / 2**20:,.0f}",
            "*" if one in last and one.arm in marked else "",
        )
        for one in found
    ]
    for one in simple:
        score = one.scores.get(metric)
        shown = printed(100 * score, 1) if isinstance(score, float) else "—"
        rows.append((one.name, *[""] * 4, shown, "", f"{one.seconds:.1f}", "", ""))
    shown = aligned(head, rows, left=("arm", "layers"))
    what = "scores in % ± standard error; seconds of choosing, caching, training"
    return f"{shown}\n({held_out:,} held-out rows; {what})"
