"""Pretrained language models behind one interface: layers, representative vectors, heads."""

from layertune.models.backbone import Backbone
from layertune.models.heads import ConcatHead, PooledHead
from layertune.models.loading import load_model, load_tokenizer
from layertune.models.task_model import Output, TaskModel, build_model

__all__ = [
    "Backbone",
    "ConcatHead",
    "Output",
    "PooledHead",
    "TaskModel",
    "build_model",
    "load_model",
    "load_tokenizer",
]
