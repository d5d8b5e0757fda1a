"""What the arms that train with `Trainer` need of it and of peft: imported when the first of them trains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from layertune.methods import train_only
from layertune.models import TaskModel
from layertune.tasks import Batch
from scripts.benchmark.arms import LORA_RANK, Bench, Example, TrainerArm, clock_of


def step_seconds(arm: TrainerArm, bench: Bench, examples: list[Example]) -> tuple[float, ...]:
    """Train once over examples, in batches as they come; return the seconds of every step but the first."""
    model = _with_lora(bench) if arm.lora else bench.model
    _choose(arm, model)
    clock = _Clock(clock_of(bench.runtime.device))
    setting = bench.setting
    arguments = TrainingArguments(
        output_dir=str(setting.outputs / "trainer"),
        max_steps=-(-len(examples) // setting.batch_size),
        per_device_train_batch_size=setting.batch_size,
        learning_rate=2e-5,
        weight_decay=0.01,
        max_grad_norm=0.0,  # layertune does not clip here either
        bf16=(arm.precision or setting.precision) == "bf16",
        use_cpu=not bench.on_cuda,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=bench.on_cuda,
    )
    trainer = _InOrder(
        model=ForTrainer(model),
        args=arguments,
        train_dataset=examples,
        data_collator=_Padding(arm.pad_to),
        callbacks=[clock],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return tuple(after - before for before, after in pairwise(clock.marks))


def _choose(arm: TrainerArm, model: TaskModel) -> None:
    if arm.lora:
        train_only(model, [model.head])
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.requires_grad_(True)
    elif arm.layers is None:
        model.requires_grad_(True)
    else:
        train_only(model, [model.head, *(model.backbone.layers[layer - 1] for layer in arm.layers)])


class ForTrainer(nn.Module):
    """A task model with the signature that `Trainer` expects."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return loss and logits."""
        output = self.model(Batch(input_ids, attention_mask, labels, None, np.arange(len(labels))))
        return {"loss": output.loss, "logits": output.logits}


class _Clock(TrainerCallback):
    """The time at the end of each step."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.marks = now, []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the time."""
        self.marks.append(self.now())


class _InOrder(Trainer):
    """Takes the examples as they come: the batches were drawn before."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


class _Padding:
    """Pads examples as DataCollatorWithPadding does; the batch that warms up to its own longest."""

    def __init__(self, pad_to: int | None) -> None:
        self.pad_to, self.batches = pad_to, 0

    def __call__(self, examples: list[Example]) -> dict[str, Tensor]:
        self.batches += 1
        longest = max(len(example["input_ids"]) for example in examples)
        width = self.pad_to if self.pad_to and self.batches > 1 else longest
        ids = torch.zeros(len(examples), width, dtype=torch.long)
        mask = torch.zeros(len(examples), width, dtype=torch.long)
        for row, example in enumerate(examples):
            length = len(example["input_ids"])
            ids[row, :length] = torch.tensor(example["input_ids"])
            mask[row, :length] = 1
        labels = torch.tensor([example["labels"] for example in examples])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _with_lora(bench: Bench) -> TaskModel:
    """Return the model with peft's LoRA on queries and values, made once; the weights below are shared."""
    if "lora" not in bench.variants:
        from peft import LoraConfig, inject_adapter_in_model

        own = (*bench.model.parameters(), *bench.model.buffers())
        model = copy.deepcopy(bench.model, {id(tensor): tensor for tensor in own})
        config = LoraConfig(
            r=LORA_RANK, lora_alpha=2 * LORA_RANK, lora_dropout=0.1, target_modules=["query", "value"]
        )
        inject_adapter_in_model(config, model.backbone.model)
        bench.variants["lora"] = model
    return bench.variants["lora"]
