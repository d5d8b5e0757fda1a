"""Read a kept model, whatever its form: `layertune.load(folder)` predicts what the run's evaluation saw."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layertune.config import ModelSpec, RunConfig, TaskSpec
from layertune.config.files import expanded
from layertune.config.kept import ABOUT, read_about
from layertune.errors import ConfigError, message_of, said_in
from layertune.fast.last_layer import OneToken
from layertune.methods import build_method
from layertune.models.loading import (
    from_folder,
    known_tokens,
    model_at,
    quiet,
    read_part,
    refuse_half_a_tokenizer,
)
from layertune.models.task_model import TaskModel, build_model
from layertune.records.record import run_of
from layertune.runtime import choose_device
from layertune.saved.forms import TENSORS, put_all
from layertune.tasks import Batch, sorted_batches
from layertune.tasks.encode import encode
from layertune.tasks.given import Text, text_columns
from layertune.tasks.rows import unlabelled


class SavedModel:
    """A trained model that reads texts.

    Attributes:
        model: the library's model, `peft`'s, or for layertune's own form a `TaskModel`.
        tokenizer: of transformers.
        labels: class names by id; empty for regression and generation.
        kind: classification, regression or generation.
        columns: names of the column or columns of text that it was trained on.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, about: dict[str, Any], device: str) -> None:
        with said_in({"train.device=": "device="}):
            self._device, _ = choose_device(device)
        self.model, self.tokenizer = model.to(self._device).eval(), tokenizer
        self.labels: tuple[str, ...] = tuple(about["labels"])
        self.kind: str = about["kind"]
        self.columns: tuple[str, ...] = tuple(about["columns"])
        self._task = TaskSpec(
            max_length=about["max_length"], segment_ids=about["segment_ids"], columns=self.columns
        )

    @torch.no_grad()
    def logits(self, texts: Iterable[Text], batch_size: int = 64) -> np.ndarray:
        """Return the model's output for each text, [n, C], in their order; regression has one column.

        Args:
            texts: strings, or pairs of strings for a model of pairs.
            batch_size: texts per forward pass; an evaluation's own is 64.

        Raises:
            DataError: there is none, or they are not what the model reads.
            ConfigError: the model generates text.
        """
        if self.kind == "generation":
            raise ConfigError("this model generates text: take .model.generate and .tokenizer.")
        rows = unlabelled(text_columns(texts, self.columns))
        store = encode(rows, self.tokenizer, self._task)
        found: np.ndarray | None = None
        for indices in sorted_batches(store.lengths, batch_size):
            answers = self._run(store.batch(indices).to(self._device)).float().cpu().numpy()
            found = np.zeros((len(rows), answers.shape[1]), np.float32) if found is None else found
            found[indices] = answers
        assert found is not None
        return found

    def predict(self, texts: Iterable[Text], batch_size: int = 64) -> list[str] | list[float]:
        """Return the label of each text, or its number for regression."""
        return self.answers(self.logits(texts, batch_size))

    def answers(self, logits: np.ndarray) -> list[str] | list[float]:
        """Return the labels that logits [n, C] stand for, or the numbers for regression."""
        if self.kind == "regression":
            return [float(value) for value in logits[:, 0]]
        return [self.labels[index] for index in logits.argmax(-1)]

    def predict_proba(self, texts: Iterable[Text], batch_size: int = 64) -> np.ndarray:
        """Return the probability of each label for each text, [n, C], in the order of `labels`.

        Raises:
            ConfigError: the model predicts numbers.
        """
        if self.kind == "regression":
            raise ConfigError("a regression has no probabilities: take predict.")
        return probabilities(self.logits(texts, batch_size))

    def _run(self, batch: Batch) -> Tensor:
        if isinstance(self.model, TaskModel):
            return self.model(batch).logits
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if batch.segment_ids is not None:
            inputs["token_type_ids"] = batch.segment_ids
        return self.model(**inputs).logits


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the softmax of logits [n, C]."""
    return torch.from_numpy(logits).softmax(-1).numpy()


def load(folder: str | Path, device: str = "auto") -> SavedModel:
    """Load a model that a run has kept (`save=<folder>`), whatever its form.

    Args:
        folder: that was written.
        device: cpu, cuda, another of torch's names, or auto: a GPU where there is one.

    Raises:
        ConfigError: it holds no such model, or one that cannot be read.
    """
    from transformers import AutoTokenizer

    path = expanded(folder)
    about = read_about(path)
    form = {"transformers": _library, "peft": _adapted, "layertune": _built}[about["form"]]
    try:
        tokenizer, model = from_folder(AutoTokenizer, path), form(path, about)
    except ConfigError:
        raise
    except Exception as error:  # the libraries' own errors are of many kinds
        if isinstance(error, MemoryError):
            raise
        raise ConfigError(f"the model in {folder} cannot be read: {message_of(error)}") from error
    config = (model.backbone.model if isinstance(model, TaskModel) else model).config
    refuse_half_a_tokenizer(f"the model in {folder}", tokenizer, known_tokens(config))
    return SavedModel(model, tokenizer, about, device)


def _library(path: Path, about: dict[str, Any], weights: ModelSpec | None = None) -> Any:
    """Return a model of the library with the settings in a folder, its weights from there or elsewhere."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    kind = AutoModelForCausalLM if about["kind"] == "generation" else AutoModelForSequenceClassification
    options = {
        "config": from_folder(AutoConfig, path),
        "dtype": torch.float32,
        "attn_implementation": about["attention"],
    }
    if weights is None:
        return from_folder(kind, path, **options)
    return read_part(weights, "weights", kind, **options)


def _adapted(path: Path, about: dict[str, Any]) -> nn.Module:
    from peft import PeftModel

    adapter = json.loads((path / "adapter_config.json").read_bytes())
    base = _library(path, about, model_at(adapter["base_model_name_or_path"], adapter.get("revision")))
    with quiet():
        return PeftModel.from_pretrained(base, str(path))


def _built(path: Path, about: dict[str, Any]) -> nn.Module:
    """Build the model as its run did, and put all its weights in."""
    from safetensors.torch import load_file

    run = _run_of(about)
    model = build_model(run, about["num_outputs"], about["kind"])
    model = build_method(run).rebuilt(model, about["structure"])
    put_all(model, load_file(path / TENSORS))
    model.backbone.last_block = OneToken if about["one_token_last"] else None
    return model


def _run_of(about: dict[str, Any]) -> RunConfig:
    """Return the run as it was asked for, its base drawn at random: the weights are put in afterwards."""
    run = run_of(about["config"])
    if run is None:
        raise ConfigError(f"{ABOUT} is of another version of layertune: save the model again.")
    base = replace(
        run.model,
        source="random",
        path=None,
        random_config=about["base"],
        attention=about["attention"],
    )
    return replace(run, model=base)
