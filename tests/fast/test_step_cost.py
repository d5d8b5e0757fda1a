"""What a step costs, in operations and multiplications: guards without a clock.

The cost model, in layer units per token: forward L, gradients with respect to inputs L - l + 1 - 1/4 (the
lowest trained layer l passes none on through its queries, keys and values), weight gradients k. A cache takes
l - 1 from the forward pass.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel

from layertune.fast.cache import run_below
from layertune.fast.last_layer import OneToken
from layertune.models import Backbone, ConcatHead, TaskModel
from layertune.tasks import Batch
from layertune.tasks.encode import LowerLayers
from layertune.training import train

LAYERS, HIDDEN, TOKENS, ROWS = 12, 64, 32, 16
TOP3 = (10, 11, 12)

# Operations that are no views, of forward, backward, clipping and fused AdamW; counted on a CPU
# with torch 2.13 and transformers 5.23. More than 5 % above: find out why before raising a number.
OPERATIONS = {"full": 1093, "plain": 676, "cached": 308, "cached, one token": 323}


@pytest.fixture(scope="module")
def model() -> TaskModel:
    config = AutoConfig.for_model(
        "bert",
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=4 * HIDDEN,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        headless = AutoModel.from_config(config, attn_implementation="sdpa", add_pooling_layer=False)
    return TaskModel(Backbone(headless, "first"), ConcatHead(LAYERS, HIDDEN, 2, 0.3), "classification")


def batch_for(model: TaskModel, lowest: int | None) -> Batch:
    mask = torch.ones(ROWS, TOKENS, dtype=torch.long)
    mask[::2, -5:] = 0
    ids = torch.randint(5, 1000, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    batch = Batch(ids, mask, torch.zeros(ROWS, dtype=torch.long), None, np.arange(ROWS))
    if lowest is None:
        return batch
    states, vectors = run_below(model.eval().backbone, batch, lowest)
    return replace(batch, lower=LowerLayers(lowest, states, vectors))


def trained(model: TaskModel, layers: tuple[int, ...] | None) -> list[torch.nn.Parameter]:
    model.requires_grad_(layers is None)
    model.head.requires_grad_(True)
    for layer in layers or ():
        model.backbone.layers[layer - 1].requires_grad_(True)
    return [p for p in model.parameters() if p.requires_grad]


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view and func.namespace == "aten"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_a_step_takes_no_more_operations_than_recorded(model, name):
    parameters = trained(model, None if name == "full" else TOP3)
    batch = batch_for(model, 10 if "cached" in name else None)
    model.train()
    model.backbone.last_block = OneToken if "one token" in name else None
    optimizer = torch.optim.AdamW(parameters, fused=True)
    counting = Counting()
    try:
        for counted in (False, True):
            with counting if counted else torch.enable_grad():
                model(batch).loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    finally:
        model.backbone.last_block = None
    assert counting.count <= OPERATIONS[name] * 1.05, f"{name}: {counting.count} operations"


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("layers", [(10, 11, 12), (5, 6, 7), (4, 8, 12), (1, 2, 3)])
def test_multiplications_follow_the_cost_model(model, layers, cached):
    above = LAYERS - layers[0] + 1
    expected = (above if cached else LAYERS) + above - 0.25 + len(layers)
    cached = cached and layers[0] > 1
    batch = batch_for(model, layers[0] if cached else None)
    trained(model, layers)
    with FlopCounterMode(display=False) as step:
        model(batch).loss.backward()
    model.zero_grad()
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        model(replace(batch, lower=None))
    head = 2 * ROWS * LAYERS * HIDDEN * HIDDEN  # one pass of the large map
    unit = (forward.get_total_flops() - head) / LAYERS
    found = (step.get_total_flops() - 2 * head) / unit  # it is read and learnt; only reps above l pass on
    assert found == pytest.approx(expected, rel=0.1)


def test_full_fine_tuning_costs_three_forward_passes(model):
    trained(model, None)
    batch = batch_for(model, None)
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        model(batch)
    with FlopCounterMode(display=False) as step:
        model(batch).loss.backward()
    model.zero_grad()
    assert step.get_total_flops() / forward.get_total_flops() == pytest.approx(3.0, rel=0.1)


# Of the loop itself, fetching of the batch included: 4 layers, of which 3 and 4 train; else as OPERATIONS.
OF_THE_LOOP = {"published": 304, "fast": 236}


@pytest.mark.parametrize("mode", list(OF_THE_LOOP))
def test_a_step_of_the_loop_takes_no_more_operations_than_recorded(prepared, mode):
    def counted(steps: int) -> int:
        timing = ("protocol=timing", "protocol.warmup_steps=0", f"protocol.max_steps={steps}")
        case = prepared(f"train={mode}", "method=top_k", "method.k=2", *timing)
        with Counting() as counting:
            assert train(*case.parts).steps == steps
        return counting.count

    counted(1)  # makes the cache
    step = (counted(7) - counted(3)) / 4
    assert step <= OF_THE_LOOP[mode] * 1.05, f"{mode}: {step} operations"
