"""One record in a few lines, for the person who waits at the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from layertune.records.record import Record


def summarise(record: Record) -> str:
    """Return what was chosen, trained and reached; percentages only here, fractions in the record."""
    lines = [record.run_id]
    selection, model, training = record.selection, record.model, record.training
    if selection is not None and selection.scores is not None:
        shown = "  ".join(f"{layer}:{score:.3f}" for layer, score in enumerate(selection.scores, start=1))
        lines.append(f"  scores    {shown}")
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
            shown = "  ".join(f"{name} {100 * v:.1f}" for name, v in scores.items() if v is not None)
            lines.append(f"  {task:<9} {shown}  (last epoch)")
    return "\n".join(lines)


def compare(records: Sequence[Record]) -> str:
    """Return a small table, one row per record: what was trained, its cost, the score after the last epoch.

    Methods in the order of their mean score, the seeds of a method together.
    """
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault((record.spec.model, record.spec.task, record.spec.method), []).append(record)
    ordered = sorted(groups.values(), key=_mean_score, reverse=True)
    rows = [_row(record) for group in ordered for record in sorted(group, key=lambda r: r.spec.seed)]
    head = ("method", "seed", "layers", "trained", "share", "select s", "train s", "peak MiB", "score")
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if column in (0, 2) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _mean_score(records: Sequence[Record]) -> float:
    scores = [score for record in records if (score := _score(record)[1]) is not None]
    return sum(scores) / len(scores) if scores else float("-inf")


def _score(record: Record) -> tuple[str, float | None]:
    if record.metrics is None:
        return "", None
    in_domain = next(iter(record.metrics.last.values()))
    return next(iter(in_domain.items()))


def _row(record: Record) -> tuple[str, ...]:
    model, training, selection = record.model, record.training, record.selection
    trainable = model.num_trainable if model else 0
    metric, score = _score(record)
    if selection is not None and selection.layers is not None:
        layers = " ".join(map(str, selection.layers))
    else:
        layers = "none" if model and model.lowest_trained_layer is None else "all"
    return (
        record.spec.method,
        str(record.spec.seed),
        layers,
        f"{trainable:,}",
        f"{100 * trainable / model.parameters:.1f} %" if model else "—",
        f"{selection.seconds:.1f}" if selection and selection.scores else "—",
        f"{training.seconds:.1f}" if training else "—",
        f"{training.peak_memory_bytes / 2**20:,.0f}" if training and training.peak_memory_bytes else "—",
        record.status if score is None else f"{metric} {100 * score:.1f}",
    )
