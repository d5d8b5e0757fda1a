"""One record in a few lines, for the person who waits at the terminal."""

from __future__ import annotations

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
