"""Tiny random models of every architecture, and batches for them."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoConfig, AutoModel

from layertune.models import Backbone, ConcatHead, TaskModel
from layertune.models.heads import initialise
from layertune.tasks import Batch

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
EXTRA = {
    "deberta": {"type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {"type_vocab_size": 0, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "electra": {"embedding_size": 32},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8},
    "llama": {"num_key_value_heads": 2},
}
ENCODERS = ["bert", "roberta", "deberta", "deberta-v2", "electra", "mpnet"]
DECODERS = ["gpt2", "gemma2", "llama"]
EAGER = {"deberta", "deberta-v2", "mpnet", "gemma2"}


def tiny_model(model_type: str, **changes: object) -> torch.nn.Module:
    """A headless random model whose norms have gains and biases of their own, in evaluation mode."""
    config = AutoConfig.for_model(model_type, **{**SMALL, **EXTRA.get(model_type, {}), **changes})
    attention = "eager" if model_type in EAGER else "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModel.from_config(config, attn_implementation=attention, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() or "ln_" in name:
                torch.nn.init.normal_(parameter, mean=1.0, std=0.5)  # the final norm turns vectors
    return model.eval()


def any_model(model_type: str, **changes: object) -> torch.nn.Module:
    """A headless random model of any architecture; one with a `vocab_size` has its own settings alone."""
    settings = changes if "vocab_size" in changes else {**SMALL, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return AutoModel.from_config(AutoConfig.for_model(model_type, **settings)).eval()


def tiny_backbone(model_type: str, **options: str) -> Backbone:
    representative = "first" if model_type in ENCODERS else "last"
    return Backbone(tiny_model(model_type), representative, **options)


def tiny_task_model(
    model_type: str, kind: str = "classification", outputs: int = 3, **options: str
) -> TaskModel:
    backbone = tiny_backbone(model_type, **options)
    head = ConcatHead(backbone.num_layers, backbone.hidden_size, outputs, 0.3)
    initialise(head, 7)
    return TaskModel(backbone, head, kind).eval()


def batch_of(lengths: list[int], seed: int = 0, width: int | None = None, num_labels: int = 3) -> Batch:
    """A right-padded batch of random tokens 3..59; the padding id is 1."""
    rng = np.random.default_rng(seed)
    width = width or max(lengths)
    ids = np.ones((len(lengths), width), dtype=np.int64)
    mask = np.zeros((len(lengths), width), dtype=np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(3, 60, length)
        mask[row, :length] = 1
    labels = torch.from_numpy(rng.integers(0, num_labels, len(lengths)))
    return Batch(torch.from_numpy(ids), torch.from_numpy(mask), labels, None, np.arange(len(lengths)))
