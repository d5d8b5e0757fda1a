"""Where each training value comes from: command line > recipe > protocol > method > task > built-in.

The result has no None left except where None is a meaning of its own, and `origin` names the source of
every value, so that a record can say why it trained the way it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from layertune.config.schema import RunConfig, TrainDefaults

# Paper: §4.4 gives AdamW, betas (0.9, 0.99), weight decay 0.01 and grids for rate, epochs and batch size.
# Choice: within the grids the released code's values: 5 epochs, batch 32, 2e-5; linear decay, no warm-up,
# no clipping.
BUILT_IN = TrainDefaults(
    epochs=5,
    batch_size=32,
    learning_rate=2e-5,
    betas=(0.9, 0.99),
    weight_decay=0.01,
    schedule="linear",
    warmup_ratio=0.0,
    label_smoothing=0.0,
    precision="fp32",
)


def resolve_training(run: RunConfig, recipe: Mapping[str, Mapping[str, TrainDefaults]]) -> RunConfig:
    """Fill every open `train.*` value of a run and record its origin.

    Args:
        recipe: task -> method -> values found by a search, for this model.
    """
    method = replace(
        run.method.train,
        learning_rate=_first(run.method.grid_rates.get(run.grid), run.method.train.learning_rate),
        head_learning_rate=_first(run.method.head_rates.get(run.grid), run.method.train.head_learning_rate),
    )
    sources: list[tuple[str, Any]] = [
        ("command line", run.train),
        ("recipe", recipe.get(run.task.name, {}).get(run.method.name, TrainDefaults())),
        (f"protocol {run.protocol.name}", run.protocol.train),
        (f"method {run.method.name}", method),
        (f"task {run.task.name}", run.task.train),
        ("built-in", BUILT_IN),
    ]
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for field in fields(TrainDefaults):
        for name, source in sources:
            value = getattr(source, field.name)
            if value is not None:
                values[field.name], origin[field.name] = value, name
                break
    if values.get("head_learning_rate") == values["learning_rate"]:
        values["head_learning_rate"] = None  # one rate for both is the neutral case
    return replace(run, train=replace(run.train, **values), origin=origin)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
