"""Which layers, how many, at what rate: successive halving on a held-out part of the training rows.

All arms start on a share of the rows; the better third goes on with three times as many, until the last are
trained on all. They share batches, layer scores and cached states through one outputs folder, and a repeated
request trains nothing twice. The evaluation rows are never read. The limit, where none is given, is twice the
time of one full fine-tuning, which a few steps of it tell.

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
LEAST = 64  # rows of the first round, and that an arm is scored on
RESERVED = 0.75  # of the budget at most is kept for the last round
PROBED = 10  # steps of a full fine-tuning that are timed
TIMES = 2  # so many full fine-tunings may the search take where nothing else is said
SHORTEST = 60.0  # seconds that it may take in any case


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
        scored: how many held-out rows those are.
        seconds: of choosing layers, filling the cache and training.
        memory: bytes at most; None where it was not measured.
        layers: that were chosen.
        cost: of the same by the clock of the search, which may count CPU seconds.
        work: what a training row costs at each step, in passes of one layer; unlike seconds the same on every
            machine, however busy. It says which of two equals is the cheaper.
    """

    arm: Arm
    rows: int
    score: float
    error: float | None
    scored: int
    seconds: float
    memory: int | None
    layers: tuple[int, ...]
    cost: float = 0.0
    work: int = 0

    def __str__(self) -> str:
        return f"{self.arm}, {self.rows:,} rows: {printed(100 * self.score, 1)} in {self.seconds:.1f} s"


@dataclass(frozen=True)
class Round:
    """One round of the search: on how many rows, and how many of its arms there was time for."""

    rows: int
    tried: int
    arms: int


@dataclass(frozen=True)
class Search:
    """What successive halving did.

    Attributes:
        tried: the last round first, best first within each.
        rounds: the first one first.
        never: the arms that there was no time to try at all.
    """

    tried: list[Tried]
    rounds: tuple[Round, ...]
    never: tuple[Arm, ...]

    @property
    def compares(self) -> bool:
        """Whether there is anything to choose from."""
        return len(self.tried) > 1

    @property
    def ended(self) -> str:
        """What there was no time for, as a sentence; empty where there was time for all."""
        if all(one.tried == one.arms for one in self.rounds):
            return ""
        shown = ", ".join(f"{one.tried} of {one.arms} arms on {one.rows:,} rows" for one in self.rounds)
        names = f" (never tried: {'; '.join(map(str, self.never))})" if self.never else ""
        return (
            f"There was time for {shown}{names}: the same command with a larger --budget goes on from here."
        )


def arms(num_layers: int) -> list[Arm]:
    """Return the arms: each strategy with a quarter and a half of the layers, at two rates.

    The strategies change fastest: whenever time ends, all of them have been compared, if any were.
    """
    some = sorted({max(1, num_layers // 4), max(1, num_layers // 2)})
    return [Arm(method, k, rate) for k, rate, method in product(some, RATES, TRIED)]


def tried(arm: Arm, record: Record, cpu: bool = False) -> Tried:
    """Read what an arm reached from its record; `cpu` says that the search counts CPU seconds."""
    training, data, selection = record.training, record.data, record.selection
    assert training is not None and data is not None
    metric, score = record.headline()
    evaluation = next(iter(record.metrics.last)) if record.metrics is not None else ""
    seconds = sum(record.seconds.values())
    return Tried(
        arm,
        data.counts["train"],
        float("-inf") if score is None else score,
        split_error(record, evaluation, metric),
        data.counts.get(evaluation, 0),
        seconds,
        training.peak_memory_bytes,
        selection.layers or () if selection is not None else (),
        training.cpu_seconds + training.cache.cpu_seconds if cpu else seconds,
        passes(record),
    )


def passes(record: Record) -> int:
    """Return the passes through one layer that a step makes of a row.

    Forwards through the layers that no cache answers for, back to the lowest that trains, and once more for
    the weights of each that trains.
    """
    assert record.training is not None and record.selection is not None
    layers, cache = record.selection.layers or (), record.training.cache
    last = int(record.config["model"]["num_layers"])
    lowest = min(layers, default=1)
    first = cache.layer if cache.used and cache.layer is not None else 1
    return (last - first + 1) + (last - lowest + 1) + len(layers or range(last))


def scored_rows(size: int, rows: int, held_out: int) -> int:
    """Return how many held-out rows an arm of `size` of all `rows` is scored on: three times that share."""
    return min(held_out, max(LEAST, KEPT * held_out * size // rows))


def whole_cost(steps: Record, rows: int, epochs: int, batch_size: int, cpu: bool) -> float:
    """Return what training on all rows takes, from the record of a few timed steps."""
    assert steps.training is not None
    spent = steps.training.cpu_seconds if cpu else steps.training.seconds
    return spent / PROBED * epochs * -(-rows // batch_size)


def rounds_of(number: int, rows: int) -> list[tuple[int, int]]:
    """Return rows and arms of each round that so many arms on so many rows go through."""
    sizes, counts = [rows], [number]
    while counts[-1] > FINAL and sizes[0] // KEPT >= LEAST:
        sizes.insert(0, sizes[0] // KEPT)
        counts.append(max(FINAL, counts[-1] // KEPT))
    return list(zip(sizes, counts, strict=True))


class _Time:
    """What is left of a budget, and what arms will take: as long per row as they took last.

    An arm that was not tried yet is expected to take as long as the longest that was.
    """

    def __init__(self, budget: float | None, clock: Callable[[], float]) -> None:
        self.budget = float("inf") if budget is None else budget
        self._clock, self._began = clock, clock()
        self._per_row: dict[Arm, float] = {}

    def note(self, one: Tried, took: float) -> None:
        """Remember what an arm took; one that was taken from its record would have taken what that says."""
        self._per_row[one.arm] = max(took, one.cost) / one.rows

    def expected(self, going: Sequence[Arm], size: int) -> float:
        """Return what arms will take on so many rows."""
        longest = max(self._per_row.values(), default=0.0)
        return size * sum(self._per_row.get(arm, longest) for arm in going)

    def has(self, seconds: float) -> bool:
        """Whether so much is left."""
        return self._clock() - self._began + seconds <= self.budget

    def reserve(self, best: Sequence[Arm], later: Sequence[int]) -> float:
        """Return what is kept for the last of the later rounds that there can be time for."""
        needed = [self.expected(best, size) * FINAL / len(best) for size in later] if best else []
        return max((each for each in needed if each <= RESERVED * self.budget), default=0.0)


def successive_halving(
    candidates: Sequence[Arm],
    rows: int,
    run: Callable[[Arm, int], Tried],
    budget: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Search:
    """Try arms in rounds of more and more rows.

    Time for the two best in the last round is set aside as soon as it is known what an arm takes; what is
    left says how many arms the rounds before may try. A round that cannot compare two is left out.

    Args:
        candidates: the arms.
        rows: all training rows.
        run: trains an arm on so many rows.
        budget: seconds; an arm that would likely not end in time is not begun. None = no limit.
        clock: tells the time.
    """
    left = _Time(budget, clock)
    plan = rounds_of(len(candidates), rows)
    found: list[Tried] = []
    rounds: list[Round] = []
    ranked = list(candidates)
    for place, (size, count) in enumerate(plan):
        going, later = ranked[:count], [size for size, _ in plan[place + 1 :]]
        done: list[Tried] = []
        for arm in going:
            best = [one.arm for one in sorted(done, key=_rank)[:FINAL]] or ranked[:FINAL]
            together = going[:FINAL] if len(done) < FINAL else [arm]  # one alone compares nothing
            ahead = [each for each in together if each not in {one.arm for one in done}]
            is_first = place == 0 and len(done) < FINAL  # whatever comes later, two are compared
            reserve = 0.0 if is_first else left.reserve(best, later)
            if not left.has(left.expected(ahead, size) + reserve):
                break
            before = clock()
            done.append(run(arm, size))
            left.note(done[-1], clock() - before)
        rounds.append(Round(size, len(done), len(going)))
        done.sort(key=_rank)
        found = [*done, *found]
        if len(done) >= FINAL:
            ranked = [one.arm for one in done]
        elif place == 0:
            break
    return Search(found, tuple(rounds), tuple(candidates[rounds[0].tried :]))


def _rank(one: Tried) -> tuple[float, int]:
    return -one.score, one.work


def front(found: Sequence[Tried]) -> set[Arm]:
    """Return the arms of the last round that no other matches in score, work and memory (Pareto)."""
    last = last_round(found)

    def cost(one: Tried) -> tuple[float, float, float]:
        return -one.score, one.work, one.memory or 0

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
    best = min(last, key=_rank)
    noise = 2**0.5 * (best.error or 0.0)
    alike = [one for one in last if best.score - one.score <= noise]
    return min(alike, key=lambda one: (one.work, -one.score)), len(alike) > 1


def not_beaten(found: Sequence[Tried], metric: str, simple: Sequence[Baseline]) -> str:
    """Return a sentence where nothing did better than what needs no language model, else an empty one."""
    best = max(one.score for one in last_round(found))
    scores = {one.name: score for one in simple if isinstance(score := one.scores.get(metric), float)}
    if not scores or best > max(scores.values()):
        return ""
    name = max(scores, key=lambda name: scores[name])
    return (
        f"Nothing is better than {name} ({printed(100 * scores[name], 1)}): more rows or train.epochs may "
        "help, or no language model is needed."
    )


def table(found: Sequence[Tried], metric: str, simple: Sequence[Baseline], held_out: int) -> str:
    """Return all that was tried, best first within each number of rows; * marks the Pareto front.

    Args:
        found: what was tried.
        metric: whose values the scores are.
        simple: what needs no language model, on the same rows.
        held_out: how many rows those were scored on.
    """
    marked, last = front(found), last_round(found)
    head = (
        "arm",
        "k",
        "rate",
        "layers",
        "rows",
        "scored",
        metric,
        "±",
        "passes",
        "seconds",
        "peak MiB",
        "front",
    )
    rows = [
        (
            one.arm.method,
            str(one.arm.k),
            f"{one.arm.learning_rate:g}",
            " ".join(map(str, one.layers)),
            f"{one.rows:,}",
            f"{one.scored:,}",
            printed(100 * one.score, 1),
            "—" if one.error is None else printed(100 * one.error, 1),
            str(one.work),
            f"{one.seconds:.1f}",
            "—" if one.memory is None else f"{one.memory / 2**20:,.0f}",
            "*" if one in last and one.arm in marked else "",
        )
        for one in found
    ]
    for one in simple:
        score = one.scores.get(metric)
        shown = printed(100 * score, 1) if isinstance(score, float) else "—"
        rows.append((one.name, *[""] * 4, f"{held_out:,}", shown, "", "", f"{one.seconds:.1f}", "", ""))
    shown = aligned(head, rows, left=("arm", "layers"))
    what = (
        "scores in % ± standard error on that many held-out rows; passes: through one layer, forth and back, "
        "of a row in each step; seconds of choosing, caching, training"
    )
    return f"{shown}\n({what})"
