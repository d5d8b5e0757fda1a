"""train=published beside train=fast: the same task, method and seed under both, and a paired test."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from layertune.errors import ConfigError
from layertune.records.record import Record
from layertune.records.store import is_stale
from layertune.report.paired import effect, paired_test
from layertune.report.rounding import printed
from layertune.report.summary import aligned, is_scored, recipe_of, with_rate

HEAD = (
    "task",
    "method",
    "layers",
    "published",
    "fast",
    "difference",
    "n",
    "cpu s published",
    "cpu s fast",
    "of it cache",
)
MODES = ("published", "fast")


def compare_modes(records: Sequence[Record]) -> str:
    """Return a small table, one row per task, method and recipe: both modes over the seeds that both have.

    Scores are the headline metric after the last epoch, mean ± sample standard deviation; `cpu s` is training
    and, under fast, the cache as first made; selection and evaluation are left out. Below it the difference
    over rows whose runs learned something. Records of older versions are left out and counted.

    Raises:
        ValueError: no task, method and seed was trained in both modes.
    """
    current = [record for record in records if not is_stale(record)]
    stale = len(records) - len(current)
    left_out = f" {stale} stale records, of older versions, are left out." if stale else ""
    found: dict[tuple[str, str, str], dict[int, dict[str, Record]]] = {}  # seed -> mode -> record
    for record in current:
        spec = record.spec
        if is_scored(record) and spec.train in MODES:
            rest = f"{spec.model} {spec.k} {spec.grid} {spec.protocol} {recipe_of(record)}"
            key = (spec.task, with_rate(spec.method, record), rest)
            found.setdefault(key, {}).setdefault(spec.seed, {})[spec.train] = record
    both = {
        key: {seed: pair for seed, pair in sorted(seeds.items()) if len(pair) == len(MODES)}
        for key, seeds in sorted(found.items())
    }
    both = {key: seeds for key, seeds in both.items() if seeds}
    if not both:
        raise ConfigError(
            f"no task, method and seed is there under both train=published and train=fast.{left_out}"
        )
    differences = {
        f"{task} {method} {rest}": [
            _score(pair["fast"]) - _score(pair["published"]) for pair in seeds.values()
        ]
        for (task, method, rest), seeds in both.items()
        if not any(record.is_below_majority for pair in seeds.values() for record in pair.values())
    }
    rows = [_row(task, method, seeds) for (task, method, _), seeds in both.items()]
    table = aligned(HEAD, rows, ("task", "method", "layers"))
    return f"{table}\n\n{_test(differences)}{left_out}"


def _row(task: str, method: str, seeds: Mapping[int, Mapping[str, Record]]) -> tuple[str, ...]:
    scores = {mode: [_score(pair[mode]) for pair in seeds.values()] for mode in MODES}
    fast = [pair["fast"].training for pair in seeds.values()]
    published = [pair["published"].training for pair in seeds.values()]
    cache = statistics.mean(training.cache.cpu_seconds for training in fast if training is not None)
    steps = statistics.mean(training.cpu_seconds for training in fast if training is not None)
    chosen = {_layers(pair[mode]) for pair in seeds.values() for mode in MODES}
    return (
        task,
        method,
        chosen.pop() if len(chosen) == 1 else "differ",
        _mean(scores["published"]),
        _mean(scores["fast"]),
        printed(statistics.mean(scores["fast"]) - statistics.mean(scores["published"]), 2, "+"),
        str(len(seeds)),
        f"{statistics.mean(training.cpu_seconds for training in published if training is not None):.0f}",
        f"{steps + cache:.0f}",
        f"{cache:.0f}",
    )


def _test(differences: Mapping[str, Sequence[float]]) -> str:
    if not differences:
        return "No row learned more than the majority class: nothing is compared."
    test = paired_test("fast", "published", differences)
    return (
        f"fast minus published, in points: {effect(test)}, over the {test.tasks} rows that learned more than "
        f"the majority class, {test.pairs} pairs of seeds."
    )


def _score(record: Record) -> float:
    value = record.headline()[1]
    assert value is not None
    return 100 * value


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {printed(statistics.stdev(values), 1)}" if len(values) > 1 else ""
    return f"{printed(statistics.mean(values), 1)}{spread}"


def _layers(record: Record) -> str:
    chosen = record.selection.layers if record.selection is not None else None
    return " ".join(map(str, chosen)) if chosen else "—"
