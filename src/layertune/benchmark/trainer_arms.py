"""What users would take instead: Hugging Face's `Trainer`, alone, grouping by length, padding to the
maximum, with peft's LoRA, or with layers frozen by hand. Model, head, optimiser, batch size and precision are
the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from layertune.benchmark.arms import Bench, clock_of
from layertune.benchmark.lengths import (
    FIRST_TOKEN,
    LAST_TOKEN,
    grouped_batches,
    random_batches,
    widths_of,
)
from layertune.benchmark.project import PADDED, Curve
from layertune.methods import train_only
from layertune.models import TaskModel
from layertune.tasks import Batch

LORA_RANK = 16
NARROW = 8  # tokens of the examples of a step that warms up
Example = dict[str, Any]  # input_ids, labels


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
    """Seconds from the end of the first step, which warms up, to the end of the last."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now, self.marks = now, []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note the time."""
        self.marks.append(self.now())

    @property
    def steps(self) -> tuple[float, ...]:
        """Seconds of each step but the first, loading and collating of batches included."""
        return tuple(after - before for before, after in pairwise(self.marks))


class _InOrder(Trainer):
    """Takes the examples as they come: the batches were drawn before."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)


@dataclass(frozen=True)
class TrainerArm:
    """An arm that trains with `Trainer`.

    Attributes:
        name: letter, and the lowest layer where layers are frozen.
        title: for the table.
        order: gives the lengths of each batch of an epoch.
        pad_to: padded length; None = the longest of the batch.
        layers: layers frozen by hand but for these; None = all train.
        lora: whether peft's LoRA trains instead.
    """

    name: str
    title: str
    order: Callable[[np.ndarray, int, int], list[np.ndarray]] = random_batches
    pad_to: int | None = None
    layers: tuple[int, ...] | None = None
    lora: bool = False
    lowest: int | None = None

    def steps(self, bench: Bench, batches: list[np.ndarray]) -> tuple[Curve, None]:
        """Train on batches of these lengths, after a narrow one that is not timed: it makes the optimiser's
        state; on a CUDA device after all of them, as for the loop's arms. Return the cost of a step. There is
        no cache.

        An arm that pads to the maximum takes `PADDED` steps, and the shortest stands for all: they are alike,
        but the first ones wait for memory.
        """
        batches = batches[:PADDED] if self.pad_to else batches
        cuda = bench.runtime.device.type == "cuda"
        warm = batches if cuda else [np.minimum(batches[0], NARROW)]
        seconds = self.train(bench, _examples(np.concatenate([*warm, *batches])))[len(warm) - 1 :]
        if self.pad_to:
            return Curve((self.pad_to,), (min(seconds),)), None
        return Curve(tuple(widths_of(batches).tolist()), seconds), None

    def train(self, bench: Bench, examples: list[Example]) -> tuple[float, ...]:
        """Train once over examples, in batches as they come; return the seconds of every step but one."""
        model = _with_lora(bench) if self.lora else bench.model
        self._choose(model)
        clock = _Clock(clock_of(bench.runtime.device))
        setting = bench.setting
        arguments = TrainingArguments(
            output_dir=str(setting.outputs / "trainer"),
            max_steps=-(-len(examples) // setting.batch_size),
            per_device_train_batch_size=setting.batch_size,
            learning_rate=2e-5,
            weight_decay=0.01,
            max_grad_norm=0.0,  # layertune does not clip here either
            bf16=setting.precision == "bf16",
            use_cpu=bench.runtime.device.type == "cpu",
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=bench.runtime.device.type == "cuda",
        )
        trainer = _InOrder(
            model=ForTrainer(model),
            args=arguments,
            train_dataset=examples,
            data_collator=_Padding(self.pad_to),
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return clock.steps

    def _choose(self, model: TaskModel) -> None:
        if self.lora:
            train_only(model, [model.head])
            for name, parameter in model.named_parameters():
                if "lora_" in name:
                    parameter.requires_grad_(True)
        elif self.layers is None:
            model.requires_grad_(True)
        else:
            train_only(model, [model.head, *(model.backbone.layers[layer - 1] for layer in self.layers)])


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


def _examples(lengths: np.ndarray) -> list[Example]:
    rng = np.random.default_rng(0)
    return [
        {"input_ids": rng.integers(FIRST_TOKEN, LAST_TOKEN, length).tolist(), "labels": int(rng.integers(2))}
        for length in lengths
    ]


def trainer_arms(max_length: int = 256) -> list[TrainerArm]:
    """Return (a) to (e)."""
    sets = {10: (10, 11, 12), 5: (5, 6, 7), 4: (4, 8, 12), 1: (1, 2, 3)}
    frozen = [
        TrainerArm(f"e{lowest}", f"Trainer, {set_of} trained by hand", layers=set_of, lowest=lowest)
        for lowest, set_of in sets.items()
    ]
    return [
        TrainerArm("a", "Trainer, full, dynamic padding"),
        TrainerArm("b", "Trainer, full, grouped by length", order=grouped_batches),
        TrainerArm("c", f"Trainer, full, padded to {max_length}", pad_to=max_length),
        TrainerArm("d", f"Trainer, peft LoRA r = {LORA_RANK}", lora=True),
        *frozen,
    ]
