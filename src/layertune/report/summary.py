"""Records in a few lines, for the person who waits at the terminal: one, several, their means, two sides."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Literal

from layertune.errors import ConfigError
from layertune.records.record import OPEN_METRICS, Record, TrainingRecord
from layertune.records.store import is_stale
from layertune.report.paired import effect, paired_test
from layertune.report.paper import PaperTables
from layertune.report.paper_claims import STRATEGIES
from layertune.report.rounding import printed
from layertune.report.values import run_seconds, split_error

SIDES = {"train": ("published", "fast"), "precision": ("fp32", "bf16")}  # what may stand side by side
RUN_HEAD = ("method", "seed", "layers", "trained", "share", "select s", "train s", "peak MiB", "score")
MEAN_HEAD = (
    "method", "grid", "layers", "trained", "select s", "train s", "cpu s", "peak MiB", "score", "split", "n"
)  # fmt: skip


def summarise(record: Record) -> str:
    """Return what was chosen, trained and reached; percentages only here, fractions in the record."""
    lines = [record.run_id]
    selection, model, training = record.selection, record.model, record.training
    if selection is not None and selection.scores is not None:
        known = ["—" if score is None else f"{score:.3f}" for score in selection.scores]
        lines.append(f"  scores    {'  '.join(f'{n}:{score}' for n, score in enumerate(known, start=1))}")
    if selection is not None and selection.layers is not None:
        lines.append(f"  layers    {', '.join(map(str, selection.layers))}")
    if model is not None:
        trainable = model.num_trainable
        share = 100 * trainable / model.parameters
        lines.append(f"  trained   {trainable:,} of {model.parameters:,} parameters ({share:.1f} %)")
    if training is not None:
        lines.append(f"  training  {training.seconds:.1f} s, {training.steps} steps")
    if record.metrics is not None:
        for task, scores in record.metrics.last.items():
            shown = "  ".join(_shown(name, value) for name, value in scores.items() if value is not None)
            lines.append(f"  {task:<9} {shown}  (last epoch)")
    return "\n".join(lines)


def _shown(name: str, value: float | str) -> str:
    if isinstance(value, str):
        return f"{name}: {value}"
    if name in OPEN_METRICS:
        return f"{name} {value:.3f}"
    return f"{name} {printed(100 * value, 1)}"


def compare(records: Sequence[Record]) -> str:
    """Return a small table, one row per record: what was trained, its cost, the score after the last epoch.

    Methods in the order of their mean score, the seeds of a method together.
    """
    rows = [_row(record) for group in _groups(records) for record in sorted(group, key=lambda r: r.spec.seed)]
    return aligned(RUN_HEAD, rows)


def against_full(records: Sequence[Record]) -> str:
    """Say of each method how much faster it was than full fine-tuning, all counted, and how much it held.

    Choosing layers and filling the cache count; so the first run of a table pays for what later ones share.
    """
    costs: dict[str, tuple[float, int | None]] = {}  # method -> seconds, bytes held at most
    for record in records:
        if (training := record.training) is not None:
            costs[record.spec.method] = (sum(record.seconds.values()), training.peak_memory_bytes)
    if "full" not in costs:
        return ""
    seconds, memory = costs.pop("full")
    lines = []
    for name, (own, held) in costs.items():
        less = f", {100 * held / memory:.0f} % of its memory" if held and memory else ""
        lines.append(f"{name}: {seconds / own:.1f} times as fast as full, choosing and cache included{less}")
    return "\n".join(lines)


def three_numbers(records: Sequence[Record], paper: PaperTables) -> str:
    """Say what a reader asks first, beside the paper's: trained share, speed-up, distance to full.

    Only tasks and seeds count on which full fine-tuning and all four strategies were run. Share and speed-up
    are those of the mean strategy, over the sums of all runs; the distance is that of the strategy with the
    best mean, in points of the headline metric, over tasks on which all five learned more than the majority
    class.

    Args:
        records: one of each method, task and seed, with the cost that `run_seconds` knows.
        paper: the numbers printed beside; of BERT, and of single steps in the speed-up.

    Returns:
        One sentence; "" where no task and seed has all five.
    """
    found: dict[tuple[str, int], dict[str, Record]] = {}
    for record in records:
        if record.spec.method in ("full", *STRATEGIES) and is_scored(record) and run_seconds(record):
            found.setdefault((record.spec.task, record.spec.seed), {})[record.spec.method] = record
    whole = {key: runs for key, runs in found.items() if len(runs) == 1 + len(STRATEGIES)}
    if not whole:
        return ""

    runs_of = ("full", *STRATEGIES)

    def share(read: Callable[[Record], float | None]) -> float:
        sums = {name: math.fsum(read(runs[name]) or 0.0 for runs in whole.values()) for name in runs_of}
        return statistics.fmean(sums[name] for name in STRATEGIES) / sums["full"]

    def of_paper(table: int, row: str, metric: str) -> float:
        number = paper.find(table, row, "average", metric)
        assert number is not None and number.target is not None
        return number.target

    theirs = of_paper(4, "ours_mean", "trainable_parameters") / of_paper(4, "full", "trainable_parameters")
    tasks, runs = len({task for task, _ in whole}), len(whole) * len(runs_of)
    told = [
        f"{tasks} tasks, {runs} runs, the mean strategy beside full fine-tuning: "
        f"{printed(100 * share(_trained), 1)} % of the parameters are trained (paper "
        f"{printed(100 * theirs, 1)} %), a run is {printed(1 / share(run_seconds), 2)} times as fast, "
        f"choosing and caching included (paper {of_paper(4, 'ours_mean', 'speedup'):.2f}, single steps)"
    ]
    learned = [runs for runs in whole.values() if not any(r.is_below_majority for r in runs.values())]
    if learned:
        means = {name: 100 * statistics.fmean(_scores([one[name] for one in learned])) for name in runs_of}
        best = max(STRATEGIES, key=means.__getitem__)
        distance = printed(means[best] - means["full"], 1, "+")
        gap = max(of_paper(1, name, "mean") for name in STRATEGIES) - of_paper(1, "full", "mean")
        told.append(
            f"{best}, the best of them on average, stands {distance} points from it where all five learned "
            f"something (paper {printed(gap, 1, '+')})"
        )
    return "; ".join(told)


def compare_means(records: Sequence[Record]) -> str:
    """Return a small table, one row per method: the same as `compare`, as means over the seeds.

    `trained` is what trains in the backbone at once, added parameters included and the head left out; `grid`
    says which rates; `cpu s` is what the training process computed, whatever else ran beside it; `split` is
    the standard error of the evaluation split itself, which no seed changes, of accuracy and Pearson's r.
    Unfinished records are left out; other rates, epochs or batch sizes are rows of their own, and so are
    records of older versions, which are called stale.
    """
    rows = [_mean_row(group) for group in _groups([record for record in records if is_scored(record)])]
    return aligned(MEAN_HEAD, rows)


def compare_sides(records: Sequence[Record], differ: Literal["train", "precision"]) -> str:
    """Return runs that differ in one setting side by side, one row per task, method and recipe.

    Only seeds trained on both sides count. Scores are the headline metric after the last epoch, mean ± sample
    standard deviation; `cpu s` is training and, under fast, the cache as first made; selection and
    evaluation are left out. Below it the difference over rows whose runs learned something. Records of older
    versions are left out and counted.

    Args:
        records: of any runs.
        differ: `train` sets the mode `fast` beside `published`, `precision` bf16 beside fp32.

    Raises:
        ConfigError: no task, method and seed was trained on both sides.
    """
    plain, other = SIDES[differ]
    current = [record for record in records if not is_stale(record)]
    stale = len(records) - len(current)
    left_out = f" {stale} stale records, of older versions, are left out." if stale else ""
    found: dict[tuple[str, ...], dict[int, dict[str, Record]]] = {}  # recipe -> seed -> side -> record
    for record in current:
        spec = record.spec
        settings = {"train": spec.train, "precision": precision_of(record)}
        side = settings.pop(differ)
        if is_scored(record) and side in SIDES[differ]:
            rest = f"{spec.model} {spec.k} {spec.grid} {spec.protocol} {recipe_of(record)} {settings}"
            key = (spec.task, with_rate(spec.method, record), rest)
            found.setdefault(key, {}).setdefault(spec.seed, {})[side] = record
    rows, differences = [], {}
    for (task, method, rest), seeds in sorted(found.items()):
        pairs = [(pair[plain], pair[other]) for _, pair in sorted(seeds.items()) if len(pair) == 2]
        if not pairs:
            continue
        rows.append((task, method, *_sides_row(pairs)))
        if not any(record.is_below_majority for pair in pairs for record in pair):
            differences[f"{task} {method} {rest}"] = [
                100 * after - 100 * before for before, after in map(_scores, pairs)
            ]
    if not rows:
        raise ConfigError(
            f"no task, method and seed is there under both {differ}={plain} and {differ}={other}.{left_out}"
        )
    told = "No row learned more than the majority class: nothing is compared."
    if differences:
        test = paired_test(other, plain, differences)
        told = (
            f"{other} minus {plain}, in points: {effect(test)}, over the {test.tasks} rows that learned more "
            f"than the majority class, {test.pairs} pairs of seeds."
        )
    head = ("task", "method", "layers", plain, other, "difference", "n")
    costs = (f"cpu s {plain}", f"cpu s {other}", "of it cache")
    return f"{aligned((*head, *costs), rows)}\n\n{told}{left_out}"


def is_scored(record: Record) -> bool:
    """Whether a run is finished, was trained and has a score."""
    return record.status == "done" and record.training is not None and record.headline()[1] is not None


def _trained(record: Record) -> float | None:
    return None if record.model is None else record.model.num_trainable


def recipe_of(record: Record) -> tuple[float | None, ...]:
    """Return rate, the head's rate, epochs and batch size of a training; () where nothing was trained."""
    training = record.training
    if training is None:
        return ()
    return training.learning_rate, training.head_learning_rate, training.epochs, training.batch_size


def precision_of(record: Record) -> str:
    """Return the precision of a run's matrix products; fp32 in a record that does not say where it ran."""
    return record.env.precision if record.env is not None else "fp32"


def with_rate(name: str, record: Record) -> str:
    """Return a name with the learning rate behind it where the command line chose that."""
    training = record.training
    if training is None or training.origin.get("learning_rate") != "command line":
        return name
    return f"{name} {training.learning_rate:g}"


def aligned(
    head: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    left: tuple[str, ...] = ("task", "method", "grid", "layers"),
) -> str:
    """Return rows below their head, the columns named in `left` flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if name in left else cell.rjust(width)
            for name, cell, width in zip(head, row, widths, strict=True)
        ).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _groups(records: Sequence[Record]) -> list[list[Record]]:
    """Put the seeds of one configuration together; best mean score first."""
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        spec = record.spec
        asked = (spec.model, spec.task, spec.method, spec.k, spec.grid, spec.train, spec.protocol)
        told = (*asked, precision_of(record), is_stale(record), *recipe_of(record))
        groups.setdefault(told, []).append(record)

    def mean_score(group: Sequence[Record]) -> float:
        scores = _scores(group)
        return sum(scores) / len(scores) if scores else float("-inf")

    return sorted(groups.values(), key=mean_score, reverse=True)


def _scores(records: Sequence[Record]) -> list[float]:
    return [score for record in records if (score := record.headline()[1]) is not None]


def _trainings(records: Sequence[Record]) -> list[TrainingRecord]:
    return [record.training for record in records if record.training is not None]


def _percent(values: Sequence[float]) -> str:
    """Return fractions as their mean in percent ± the sample standard deviation."""
    spread = f" ± {printed(100 * statistics.stdev(values), 1)}" if len(values) > 1 else ""
    return f"{printed(100 * statistics.mean(values), 1)}{spread}"


def _row(record: Record) -> tuple[str, ...]:
    model, training, selection = record.model, record.training, record.selection
    trainable = model.num_trainable if model else 0
    metric, score = record.headline()
    return (
        _called(record),
        str(record.spec.seed),
        _layers(record),
        f"{trainable:,}",
        f"{100 * trainable / model.parameters:.1f} %" if model else "—",
        f"{selection.seconds:.1f}" if selection and selection.scores else "—",
        f"{training.seconds:.1f}" if training else "—",
        f"{training.peak_memory_bytes / 2**20:,.0f}" if training and training.peak_memory_bytes else "—",
        record.status if score is None else f"{metric} {printed(100 * score, 1)}",
    )


def _called(record: Record) -> str:
    """Return the method, and what its numbers must not be compared across: mode, precision, versions."""
    precision = precision_of(record)
    words = {"fast": record.spec.train == "fast", precision: precision != "fp32", "stale": is_stale(record)}
    said = ", ".join(word for word, holds in words.items() if holds)
    return f"{record.spec.method} ({said})" if said else record.spec.method


def _layers(record: Record) -> str:
    """Return the chosen layers, else whether all or none of them trained."""
    if record.selection is not None and record.selection.layers is not None:
        return " ".join(map(str, record.selection.layers))
    return "none" if record.model and record.model.lowest_trained_layer is None else "all"


def _mean_row(group: Sequence[Record]) -> tuple[str, ...]:
    first, train = group[0], _trainings(group)
    assert first.model is not None, "a finished record says what trained"
    at_once = first.model.trainable.get("at_once", first.model.num_trainable)  # not measured in old records
    layers = {_layers(record) for record in group}
    peaks = [t.peak_memory_bytes for t in train if t.peak_memory_bytes is not None]
    selecting = [r.selection.seconds for r in group if r.selection is not None and r.selection.scores]
    splits = [error for record in group if (error := _split_error(record)) is not None]
    return (
        _called(first),
        with_rate(first.spec.grid, first),
        layers.pop() if len(layers) == 1 else "by seed",
        f"{at_once - first.model.trainable['head']:,}",
        f"{statistics.mean(selecting):.1f}" if selecting else "—",
        f"{statistics.mean(t.seconds for t in train):.1f}",
        f"{statistics.mean(t.cpu_seconds for t in train):.1f}",
        f"{statistics.mean(peaks) / 2**20:,.0f}" if peaks else "—",
        f"{first.headline()[0]} {_percent(_scores(group))}",
        f"± {printed(100 * statistics.mean(splits), 1)}" if splits else "—",
        str(len(group)),
    )


def _split_error(record: Record) -> float | None:
    evaluation = next(iter(record.metrics.last), "") if record.metrics is not None else ""
    return split_error(record, evaluation, record.headline()[0])


def _sides_row(pairs: Sequence[tuple[Record, Record]]) -> tuple[str, ...]:
    """Return the row of one recipe: pairs of one seed each, the plain side first."""
    sides = tuple(zip(*pairs, strict=True))
    chosen = {_layers(record) for pair in pairs for record in pair}
    layers = chosen.pop() if len(chosen) == 1 else "differ"
    caches = [statistics.mean(t.cache.cpu_seconds for t in _trainings(side)) for side in sides]
    steps = [statistics.mean(t.cpu_seconds for t in _trainings(side)) for side in sides]
    before, after = (100 * statistics.mean(_scores(side)) for side in sides)
    return (
        "—" if layers in ("all", "none", "") else layers,
        *(_percent(_scores(side)) for side in sides),
        printed(after - before, 2, "+"),
        str(len(pairs)),
        *(f"{step + cache:.0f}" for step, cache in zip(steps, caches, strict=True)),
        f"{caches[-1]:.0f}",
    )
