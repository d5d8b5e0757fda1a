"""The three forms of a kept model: the library's own, an adapter of `peft`, and layertune's.

The library's (`transformers`) holds a model whose head is one of its own and to which nothing was added, or
into which what was added is folded (`merge=true`). `peft` holds a LoRA or (IA)³ that its library can insert
into a base it can find. All else (the concatenation head, adapters, prefixes, RECAP's pruned models, updates
of a part of a fused map) is a file of tensors that `layertune.load` puts into a model built anew.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from torch import Tensor, nn

from layertune.config import RunConfig
from layertune.config.weights import weights_folder
from layertune.methods.added import AddedParameters
from layertune.methods.peft import merged
from layertune.models.heads import StandardHead
from layertune.models.loading import quiet
from layertune.models.parameters import put_values

if TYPE_CHECKING:
    from peft import PeftConfig

    from layertune.methods import Method
    from layertune.models import TaskModel
    from layertune.tasks import TaskData
    from layertune.training.outcome import Evaluated

TENSORS = "model.safetensors"  # of layertune's own form


def write_form(
    folder: Path, run: RunConfig, data: TaskData, method: Method, evaluated: Evaluated
) -> dict[str, Any]:
    """Write weights, settings and tokenizer of a model; return what `layertune.json` says of its form."""
    model = evaluated.model.cpu().eval()
    put_values(model, evaluated.weights)
    names = None if data.kind == "regression" else list(data.provenance.labels)
    about: dict[str, Any] = {"attention": model.backbone.model.config._attn_implementation}
    is_plain = run.merge or not isinstance(method, AddedParameters)
    adapter = None if is_plain else _adapter(run, model, method)
    if evaluated.structure is None and _is_of_the_library(model) and (is_plain or adapter is not None):
        whole = _whole(model, names)
        _fit_padding(whole.config, data.tokenizer)
        if adapter is not None:
            about |= {"form": "peft"}
            _write_adapter(folder, adapter, whole, model)
        else:
            about |= {"form": "transformers"}
            with quiet(), merged(model.backbone.model):
                whole.save_pretrained(folder, state_dict=_without_added(whole))
    else:
        about |= {
            "form": "layertune",
            "base": model.backbone.model.config.to_dict(),
            "structure": evaluated.structure,
            "one_token_last": evaluated.one_token_last,
            "num_outputs": data.num_outputs,
        }
        save_file(_tensors(model), folder / TENSORS, metadata={"format": "pt"})
    _write_tokenizer(folder, run, data, model)
    return about


def _is_of_the_library(model: TaskModel) -> bool:
    return model.kind == "generation" or isinstance(model.head, StandardHead)


def _whole(model: TaskModel, names: list[str] | None) -> Any:
    """Return the library's model with its head; it shares its weights with ours."""
    if model.kind == "generation":
        return model.causal_lm
    assert isinstance(model.head, StandardHead)
    return model.head.whole(model.backbone.model, names)


def _fit_padding(config: Any, tokenizer: Any) -> None:
    """Name the padding of a decoder, by which the library finds a text's last token."""
    if getattr(config, "pad_token_id", None) is None or tokenizer.sep_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id


def _without_added(whole: nn.Module) -> dict[str, Tensor]:
    """Return the weights under the names they have where nothing was inserted, what was inserted left out."""
    added = (".lora_", ".ia3_", ".fused.")
    return {
        name.replace(".base_layer.", "."): value
        for name, value in whole.state_dict().items()
        if not any(part in name for part in added)
    }


def _adapter(run: RunConfig, model: TaskModel, method: Method) -> PeftConfig | None:
    """Return the `peft` library's view of what a method added; None where it has none."""
    if not isinstance(method, AddedParameters) or not _is_of_the_library(model):
        return None
    config = method.peft_config(model.backbone)
    folder = weights_folder(run.model)
    if config is None or (folder is None and run.model.source == "random"):
        return None
    config.base_model_name_or_path = run.model.source if folder is None else str(folder.absolute())
    config.revision = None if folder else run.model.revision
    config.task_type = "CAUSAL_LM" if model.kind == "generation" else "SEQ_CLS"
    config.inference_mode = True
    return config


def _write_adapter(folder: Path, config: Any, whole: Any, model: TaskModel) -> None:
    prefix = whole.base_model_prefix
    for key in ("target_modules", "feedforward_modules"):
        if (pattern := getattr(config, key, None)) is not None:
            setattr(config, key, rf"{prefix}\.{pattern}")
    parts: set[str] = set()
    if model.kind != "generation":
        parts = {name.split(".")[0] for name, _ in whole.named_parameters()} - {prefix}
        if getattr(getattr(whole, prefix), "pooler", None) is not None:
            parts.add("pooler")
    config.modules_to_save = sorted(parts) or None
    tensors = {
        f"base_model.model.{name.replace('.default', '')}": value.contiguous().clone()
        for name, value in whole.state_dict().items()
        if ".lora_" in name
        or ".ia3_" in name
        or any(name.startswith((f"{part}.", f"{prefix}.{part}.")) for part in parts)
    }
    config.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    whole.config.save_pretrained(folder)


def _tensors(model: TaskModel) -> dict[str, Tensor]:
    """Return all weights by name, each once: a file cannot say that two names share one."""
    return {name: p.detach().clone().contiguous() for name, p in model.named_parameters()}


def _write_tokenizer(folder: Path, run: RunConfig, data: TaskData, model: TaskModel) -> None:
    """Write a tokenizer that reads a text as the run did, wherever it is loaded."""
    tokenizer = copy.deepcopy(data.tokenizer)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.model_max_length = run.task.max_length
    if not (run.task.segment_ids == "standard" and model.backbone.takes_segments):
        kept = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
        tokenizer.model_input_names = kept
    tokenizer.save_pretrained(folder)


def put_all(model: TaskModel, tensors: dict[str, Tensor]) -> None:
    """Put tensors into a model that has a parameter for each of them, and none besides.

    Raises:
        ValueError: they are not those of this model.
    """
    if odd := sorted(dict(model.named_parameters()).keys() ^ tensors.keys()):
        raise ValueError(f"it is not the model's: {', '.join(odd[:3])}")
    put_values(model, tensors)
