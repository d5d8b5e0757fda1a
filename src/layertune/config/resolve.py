"""Where each training value comes from: command line > train file > recipe > protocol > method > task > grid
> built-in.

The result has no None left except where None is a meaning of its own, and `origin` names the source of
every value, so that a record can say why it trained the way it did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from layertune.config.grids import PAPER_RATES, middle, rates_of_grid, rates_of_method
from layertune.config.identity import can_be_adaptive
from layertune.config.recipe import values_of
from layertune.config.schema import TrainDefaults

if TYPE_CHECKING:
    from layertune.config.run import RunConfig


# Paper: §4.4 gives AdamW, betas (0.9, 0.99), weight decay 0.01 and grids for rate, epochs and batch size.
# Choice: [epochs, batch, rate] within the grids the released code's values: 5 epochs, batch 32, 2e-5; linear
# decay, no warm-up, no clipping.
BUILT_IN = TrainDefaults(
    epochs=5,
    batch_size=32,
    learning_rate=middle(PAPER_RATES),
    betas=(0.9, 0.99),
    weight_decay=0.01,
    schedule="linear",
    warmup_ratio=0.0,
    label_smoothing=0.0,
    precision="fp32",
)

BY_TASK = "_by_task"


def resolve_training(run: RunConfig, recipe: Mapping[str, Mapping[str, TrainDefaults]]) -> RunConfig:
    """Fill every open `train.*` value of a run and record its origin.

    Args:
        recipe: task -> method -> values found by a search, for this model.
    """
    method, named = run.method.train, rates_of_method(run)
    method = replace(
        method,
        learning_rate=_first(named.learning_rate, method.learning_rate),
        head_learning_rate=_first(named.head_learning_rate, method.head_learning_rate),
    )
    typed, from_file = _split_by_hand(run)
    sources: list[tuple[str, TrainDefaults]] = [
        ("command line", typed),
        (f"train {_train_file(run)}", from_file),
        ("recipe", values_of(recipe, run.task.name, run.method)),
        (f"protocol {run.protocol.name}", run.protocol.train),
        (f"method {run.method.name}", method),
        (f"task {run.task.name}", run.task.train),
        *([(f"grid {run.grid}", rates_of_grid(run))] if run.grid != "paper" else []),
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
    if values["precision"] == "auto":
        values["precision"], origin["precision"] = precision_here(run)
    if values.get("head_learning_rate") == values["learning_rate"]:
        values["head_learning_rate"] = None  # one rate for both is the neutral case
    few = "adaptive" if run.train.mode == "fast" and can_be_adaptive(run) else None
    scored = _first(run.scoring.examples, few, run.task.score_examples, "all")
    scoring = replace(run.scoring, examples=scored)
    spec = replace(run.method, options=_options_of_task(run))
    return replace(run, method=spec, train=replace(run.train, **values), scoring=scoring, origin=origin)


def precision_here(run: RunConfig) -> tuple[str, str]:
    """Return bf16 where this machine computes in it and the model can, else fp32; and why.

    A processor that has AVX512 alone computes bf16 by way of fp32, which gains nothing.
    """
    if "fp32" not in run.model.precisions or "bf16" not in run.model.precisions:
        (only,) = run.model.precisions
        return only, "auto: the model takes no other"
    has, what = bf16_on(run.train.device)
    return ("bf16", f"auto: this {what} has bf16") if has else ("fp32", f"auto: this {what} has no bf16")


def bf16_on(device: str) -> tuple[bool, str]:
    """Return whether what computes under `train.device` does so in bf16 by itself, and what it is."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False), "CUDA device"
    units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return units and torch.ops.mkldnn._is_mkldnn_bf16_supported(), "processor"


def _options_of_task(run: RunConfig) -> dict[str, Any]:
    """Return the method's options; where `x_by_task` lists values by task, `x` takes the run's.

    The list itself goes: the value for another task is no part of a run. `default` is for all other tasks.
    """
    options = {key: value for key, value in run.method.options.items() if not key.endswith(BY_TASK)}
    for key, listed in run.method.options.items():
        option = key.removesuffix(BY_TASK)
        if key.endswith(BY_TASK) and options.get(option) is None:
            found = (listed.get(name) for name in (run.task.name, run.task.data_name, "default"))
            options[option] = _first(*found)
    return options


def _split_by_hand(run: RunConfig) -> tuple[TrainDefaults, TrainDefaults]:
    """Return the `train.*` values that the command line gave, and those of the file in configs/train.

    Without a command line (a mapping built by a program) all were given by hand.
    """
    given = {override.lstrip("+").partition("=")[0] for override in run.overrides}
    typed: dict[str, Any] = {}
    from_file: dict[str, Any] = {}
    for field in fields(TrainDefaults):
        by_hand = not given or f"train.{field.name}" in given
        (typed if by_hand else from_file)[field.name] = getattr(run.train, field.name)
    return TrainDefaults(**typed), TrainDefaults(**from_file)


def _train_file(run: RunConfig) -> str:
    chosen = [item.partition("=")[2] for item in run.overrides if item.partition("=")[0] == "train"]
    return chosen[-1] if chosen else run.train.mode


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)
