"""Models with inserted parameters: tiny ones of every architecture, real configurations without memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from tiny_models import DECODERS, ENCODERS, EXTRA, SMALL
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from layertune.config import MethodSpec, ModelSpec, ProtocolSpec, RunConfig, TaskSpec, TrainSpec
from layertune.config.build import build_method_spec
from layertune.config.groups import group_file
from layertune.methods import Preparation, build_method
from layertune.methods.added import AddedParameters
from layertune.models import Backbone, ConcatHead, TaskModel

ALL = [*ENCODERS, *DECODERS]
WITH_CACHE = ["bert", "roberta", "electra", "gpt2", "gemma2", "llama"]
NO_DROPOUT = dict.fromkeys(
    ("hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0
)


def method_of(name: str, seed: int = 0, model: ModelSpec | None = None, **options: object) -> AddedParameters:
    """The method of a YAML with some options changed."""
    spec: MethodSpec = build_method_spec({**group_file("method", name), **options})
    run = RunConfig(model or ModelSpec(), TaskSpec(), spec, ProtocolSpec(), TrainSpec(), seed=seed)
    method = build_method(run)
    assert isinstance(method, AddedParameters)
    return method


def insert(name: str, model: TaskModel, seed: int = 0, **options: object) -> Preparation:
    """Prepare a model in place."""
    return method_of(name, seed, **options).insert_into(model)


def added(model: TaskModel, prep: Preparation) -> dict[str, nn.Parameter]:
    """The inserted parameters by name."""
    parameters = dict(model.named_parameters())
    return {name: parameters[name] for name in prep.added}


@torch.no_grad()
def shake(parameters: Iterator[nn.Parameter] | list[nn.Parameter], scale: float = 0.3) -> None:
    """Move parameters off their initial values, each by its own noise."""
    generator = torch.Generator().manual_seed(3)
    for parameter in parameters:
        parameter += scale * torch.randn(parameter.shape, generator=generator)


def language_model(model_type: str, **changes: object) -> TaskModel:
    """A tiny decoder with its own head, for generation, in evaluation mode."""
    config = AutoConfig.for_model(model_type, **{**SMALL, **EXTRA.get(model_type, {}), **changes})
    attention = "eager" if model_type == "gemma2" else "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        whole = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32)
        for parameter in whole.parameters():
            nn.init.normal_(parameter, std=0.3)  # else every token is as likely as any other
    head = whole.get_output_embeddings()
    return TaskModel(Backbone(whole.base_model, "last"), head, "generation", causal_lm=whole).eval()


def real_model(model_type: str, outputs: int = 2, **changes: object) -> TaskModel:
    """A model of the library's default configuration (BERT-base, GPT-2 small) that takes no memory."""
    with torch.device("meta"):
        backbone = Backbone(AutoModel.from_config(AutoConfig.for_model(model_type, **changes)), "first")
        head = ConcatHead(backbone.num_layers, backbone.hidden_size, outputs, 0.3)
    return TaskModel(backbone, head, "classification")


def real_language_model(model_type: str) -> TaskModel:
    """The same with the language model's own head."""
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type))
    head = whole.get_output_embeddings()
    return TaskModel(Backbone(whole.base_model, "last"), head, "generation", causal_lm=whole)
