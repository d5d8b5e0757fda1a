"""The optimiser, AdamW over the trainable parameters alone, and the schedules of its learning rate (§4.4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch.optim.lr_scheduler import LambdaLR

from layertune.config import TrainSpec
from layertune.methods import optimised

if TYPE_CHECKING:
    from layertune.models import TaskModel


def build_optimizer(
    model: TaskModel, train: TrainSpec, held: Mapping[str, torch.nn.Parameter] | None = None
) -> torch.optim.AdamW:
    """Return fused AdamW with one group for the backbone and one for the head.

    Choice: [weight decay] on every trainable tensor, biases and LayerNorms included, as in the released code.

    Args:
        model: says which parameters are those of the head. In generation none are: the language model's head
            may be one with the input embedding.
        train: rates, betas, weight decay.
        held: the parameters that it holds, by name; None = all that are trainable now.
    """
    assert train.learning_rate is not None and train.betas is not None and train.weight_decay is not None
    head = set() if model.kind == "generation" else set(model.head.parameters())
    groups: dict[str, list[torch.nn.Parameter]] = {"backbone": [], "head": []}
    for parameter in (dict(optimised(model)) if held is None else held).values():
        groups["head" if parameter in head else "backbone"].append(parameter)
    rates = {"backbone": train.learning_rate, "head": train.head_learning_rate or train.learning_rate}
    return torch.optim.AdamW(
        [{"params": group, "lr": rates[name], "name": name} for name, group in groups.items() if group],
        lr=train.learning_rate,
        betas=(train.betas[0], train.betas[1]),
        weight_decay=train.weight_decay,
        eps=1e-8,
        fused=True,
    )


def build_schedule(optimizer: torch.optim.Optimizer, train: TrainSpec, steps: int, done: int = 0) -> LambdaLR:
    """Return the schedule of the learning rate: warm-up, then linear or cosine decay to 0, or none.

    Args:
        optimizer: whose rate is changed.
        train: names the schedule and the share of the steps that warm up.
        steps: of the whole schedule.
        done: how many of them an earlier optimiser has taken.
    """
    factor = rate_factor(train.schedule or "linear", train.warmup_ratio or 0.0, steps)
    return LambdaLR(optimizer, lambda step: factor(done + step))


def rate_factor(schedule: str, warmup_ratio: float, steps: int) -> Callable[[int], float]:
    """Return the function that maps a step, counted from 0, to the factor on the learning rate."""
    warmup = math.ceil(warmup_ratio * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        if schedule == "linear":
            return 1.0 - done
        if schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        return 1.0

    return factor
