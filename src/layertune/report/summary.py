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
        trainable = sum(model.trainable.values())
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
    """Return a small table, one row per record: in-domain score, seconds, trainable parameters, layers."""
    rows = [("method", "layers", "trained", "of all", "selection s", "training s", "metric", "score")]
    rows += [_row(record) for record in records]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _row(record: Record) -> tuple[str, ...]:
    model, training, selection = record.model, record.training, record.selection
    trainable = sum(model.trainable.values()) if model else 0
    layers = "all" if selection is None or selection.layers is None else " ".join(map(str, selection.layers))
    task = next(iter(record.metrics.last)) if record.metrics else ""
    metric, score = next(iter(record.metrics.last[task].items())) if record.metrics else ("", None)
    return (
        record.spec.method,
        layers,
        f"{trainable:,}",
        f"{100 * trainable / model.parameters:.1f} %" if model else "—",
        f"{selection.seconds:.1f}" if selection and selection.scores else "—",
        f"{training.seconds:.1f}" if training else "—",
        metric,
        "—" if score is None else f"{100 * score:.1f}",
    )
