"""One record in a few lines, for the person who waits at the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from layertune.records.record import OPEN_METRICS, Record
from layertune.records.store import is_stale
from layertune.report.measures import split_error
from layertune.report.rounding import printed


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
    head = ("method", "seed", "layers", "trained", "share", "select s", "train s", "peak MiB", "score")
    return aligned(head, rows)


def against_full(records: Sequence[Record]) -> str:
    """Say of each method how much faster it was than full fine-tuning, all counted, and how much it held.

    Choosing layers and filling the cache count; so the first run of a table pays for what later ones share.
    """
    costs = {record.spec.method: _cost(record) for record in records if record.training is not None}
    if "full" not in costs:
        return ""
    seconds, memory = costs.pop("full")
    lines = []
    for name, (own, held) in costs.items():
        less = f", {100 * held / memory:.0f} % of its memory" if held and memory else ""
        lines.append(f"{name}: {seconds / own:.1f} times as fast as full, choosing and cache included{less}")
    return "\n".join(lines)


def _cost(record: Record) -> tuple[float, int | None]:
    """Return the seconds of choosing, caching and training, and the bytes held at most."""
    training, selection = record.training, record.selection
    assert training is not None
    seconds = training.seconds + training.cache.seconds
    return seconds + (selection.seconds if selection is not None else 0.0), training.peak_memory_bytes


def compare_means(records: Sequence[Record]) -> str:
    """Return a small table, one row per method: the same as `compare`, as means over the seeds.

    `trained` is what trains in the backbone at once, added parameters included and the head left out; `grid`
    says which rates; `cpu s` is what the training process computed, whatever else ran beside it; the score is
    the mean after the last epoch ± the sample standard deviation (n seeds); `split` is the standard error of
    the evaluation split itself, which no seed changes, of accuracy and Pearson's r.
    Unfinished records are left out; other rates, epochs or batch sizes are rows of their own, and so are
    records of older versions, which are called stale.
    """
    done = [record for record in records if is_scored(record)]
    head = (
        "method",
        "grid",
        "layers",
        "trained",
        "select s",
        "train s",
        "cpu s",
        "peak MiB",
        "score",
        "split",
        "n",
    )
    return aligned(head, [_mean_row(group) for group in _groups(done)])


def _groups(records: Sequence[Record]) -> list[list[Record]]:
    """Put the seeds of one configuration together; best mean score first."""
    groups: dict[tuple[str | float | None, ...], list[Record]] = {}
    for record in records:
        spec = record.spec
        key: tuple[str | float | None, ...] = (
            spec.model,
            spec.task,
            spec.method,
            spec.k,
            spec.grid,
            spec.train,
            spec.protocol,
            is_stale(record),
        )
        key += recipe_of(record)
        groups.setdefault(key, []).append(record)
    return sorted(groups.values(), key=_mean_score, reverse=True)


def is_scored(record: Record) -> bool:
    """Whether a run is finished, was trained and has a score."""
    return record.status == "done" and record.training is not None and record.headline()[1] is not None


def recipe_of(record: Record) -> tuple[float | None, ...]:
    """Return rate, the head's rate, epochs and batch size of a training; () where nothing was trained."""
    training = record.training
    if training is None:
        return ()
    return training.learning_rate, training.head_learning_rate, training.epochs, training.batch_size


def with_rate(name: str, record: Record) -> str:
    """Return a name with the learning rate behind it where the command line chose that."""
    training = record.training
    if training is None or training.origin.get("learning_rate") != "command line":
        return name
    return f"{name} {training.learning_rate:g}"


def aligned(
    head: tuple[str, ...],
    rows: Sequence[tuple[str, ...]],
    left: tuple[str, ...] = ("method", "grid", "layers"),
) -> str:
    """Return rows below their head, the columns named in `left` flush left and the others flush right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if name in left else cell.rjust(width)
            for name, cell, width in zip(head, row, widths, strict=True)
        ).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _mean_score(records: Sequence[Record]) -> float:
    scores = [score for record in records if (score := record.headline()[1]) is not None]
    return sum(scores) / len(scores) if scores else float("-inf")


def _row(record: Record) -> tuple[str, ...]:
    model, training, selection = record.model, record.training, record.selection
    trainable = model.num_trainable if model else 0
    metric, score = record.headline()
    if selection is not None and selection.layers is not None:
        layers = " ".join(map(str, selection.layers))
    else:
        layers = "none" if model and model.lowest_trained_layer is None else "all"
    return (
        _called(record),
        str(record.spec.seed),
        layers,
        f"{trainable:,}",
        f"{100 * trainable / model.parameters:.1f} %" if model else "—",
        f"{selection.seconds:.1f}" if selection and selection.scores else "—",
        f"{training.seconds:.1f}" if training else "—",
        f"{training.peak_memory_bytes / 2**20:,.0f}" if training and training.peak_memory_bytes else "—",
        record.status if score is None else f"{metric} {printed(100 * score, 1)}",
    )


def _called(record: Record) -> str:
    """Return the method, and what its numbers must not be compared across: the mode, older versions."""
    words = {"fast": record.spec.train == "fast", "stale": is_stale(record)}
    said = ", ".join(word for word, holds in words.items() if holds)
    return f"{record.spec.method} ({said})" if said else record.spec.method


def _mean_row(group: Sequence[Record]) -> tuple[str, ...]:
    first = group[0]
    layers = {_row(record)[2] for record in group}
    scores = [score for record in group if (score := record.headline()[1]) is not None]
    spread = f" ± {printed(100 * statistics.stdev(scores), 1)}" if len(scores) > 1 else ""
    train = [record.training for record in group if record.training is not None]
    peaks = [t.peak_memory_bytes for t in train if t.peak_memory_bytes is not None]
    scored = [r.selection.seconds for r in group if r.selection is not None and r.selection.scores]
    return (
        _called(first),
        with_rate(first.spec.grid, first),
        layers.pop() if len(layers) == 1 else "by seed",
        f"{_trained_at_once(first):,}",
        f"{statistics.mean(scored):.1f}" if scored else "—",
        f"{statistics.mean(t.seconds for t in train):.1f}",
        f"{statistics.mean(t.cpu_seconds for t in train):.1f}",
        f"{statistics.mean(peaks) / 2**20:,.0f}" if peaks else "—",
        f"{first.headline()[0]} {printed(100 * statistics.mean(scores), 1)}{spread}",
        _split_error(group),
        str(len(group)),
    )


def _split_error(group: Sequence[Record]) -> str:
    found = []
    for record in group:
        evaluation = next(iter(record.metrics.last), "") if record.metrics is not None else ""
        error = split_error(record, evaluation, record.headline()[0])
        found += [] if error is None else [error]
    return f"± {printed(100 * statistics.mean(found), 1)}" if found else "—"


def _trained_at_once(record: Record) -> int:
    """Count the largest number that trained in one step, head left out; records of old did not measure it."""
    assert record.model is not None
    trainable = record.model.trainable
    at_once = trainable.get("at_once")
    return record.model.num_trainable - trainable["head"] if at_once is None else at_once - trainable["head"]
