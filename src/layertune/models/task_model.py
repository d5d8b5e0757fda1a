"""Backbone + head + loss: what is scored, trained and evaluated."""

from __future__ import annotations

import copy
import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layertune.config import ModelSpec, RunConfig
from layertune.errors import ModelError
from layertune.models.backbone import Backbone, device_of, full_precision
from layertune.models.heads import ConcatHead, PooledHead, StandardHead, build_standard_head, initialise
from layertune.models.loading import load_model
from layertune.models.probe import probe
from layertune.tasks.encode import IGNORED_LABEL

if TYPE_CHECKING:
    from layertune.tasks import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Output:
    """Loss (a scalar) and logits, at least fp32: [B, C], regression [B, 1], generation [N, vocabulary].

    N are the learnt tokens of the batch, row by row; each one's logits are those of the state before it.
    """

    loss: Tensor
    logits: Tensor


class TaskModel(nn.Module):
    """A backbone with the head of one task.

    Args:
        backbone: the pretrained model.
        head: maps [B, L, H] to [B, C]; for generation the language model's own head, [B, T, H] to [B, T, V].
        kind: `classification` (cross-entropy), `regression` (mean squared error on the raw score) or
            `generation` (cross-entropy of each token whose label is not -100, given those before it).
        label_smoothing: share of the target spread over all classes; ignored for regression.
        causal_lm: generation only: the whole model of transformers; it shares its modules with backbone and
        head.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: nn.Module,
        kind: str,
        label_smoothing: float = 0.0,
        causal_lm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.kind = kind
        self.label_smoothing = label_smoothing
        self._causal_lm = (causal_lm,)  # in a tuple: not a second registration of the same modules

    @property
    def causal_lm(self) -> nn.Module:
        """The model with `generate`, for decoding.

        Raises:
            ModelError: this model does not generate.
        """
        (causal_lm,) = self._causal_lm
        if causal_lm is None:
            raise ModelError(f"a {self.kind} model has no language-model head to generate with.")
        return causal_lm

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return device_of(self)

    def representatives(self, batch: Batch) -> Tensor:
        """Return the representative vector of every layer, [B, L, H]."""
        return self.backbone(batch)

    def forward(self, batch: Batch) -> Output:
        """Return loss and logits of a batch."""
        if self.kind == "generation":
            logits, labels = self.next_token_logits(batch)
        else:
            logits, labels = full_precision(self._answers(batch)), batch.labels
        return Output(self._loss(logits, labels), logits)

    def _answers(self, batch: Batch) -> Tensor:
        """Return the head's logits, [B, C]: of an evaluated standard head exactly as the library has them."""
        if isinstance(self.head, StandardHead) and not self.training and batch.lower is None:
            return self.head.read(self.backbone.run(batch), batch)
        return self.head(self.backbone(batch))

    def next_token_logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits of the learnt tokens, [N, V], and the tokens themselves, [N].

        The head, a third of a small model's work, reads only the states that predict such a token.
        """
        targets = batch.targets
        if targets is None:
            learnt = batch.labels != IGNORED_LABEL
            learnt[:, 0] = False  # nothing stands before a first token
            targets = learnt.flatten().nonzero().squeeze(1)
        states = self.backbone.run(batch).flatten(0, 1)  # [B·T, H]
        logits = self.head(states.index_select(0, targets - 1))
        cap = getattr(self.backbone.model.config, "final_logit_softcapping", None)  # Gemma-2
        logits = full_precision(logits if cap is None else torch.tanh(logits / cap) * cap)
        return logits, batch.labels.flatten()[targets]

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.kind == "regression":
            return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def with_fresh_head(self, seed: int) -> TaskModel:
        """Return a model with this backbone and a newly drawn head; for generation, the model itself."""
        if self.kind == "generation":
            return self
        head = copy.deepcopy(self.head).cpu()
        initialise(head, seed)
        return TaskModel(self.backbone, head.to(self.device), self.kind, self.label_smoothing)


def build_backbone(model: ModelSpec, causal_lm: bool = False) -> tuple[Backbone, nn.Module | None]:
    """Load a model; with `causal_lm`, also return it with its language-model head (shared modules)."""
    loaded = load_model(model, causal_lm)
    headless = loaded.base_model if causal_lm else loaded
    backbone = Backbone(headless, model.representative_token, model.last_layer, model.layers)
    token = "last" if probe(backbone) else backbone.architecture.token
    if model.representative is None and model.representative_token != token:
        raise ModelError(
            f"a text is to be read at the {token} token of model={model.name}, and model.family="
            f"{model.family} reads another: set the family of a causal model to decoder, or say "
            f"model.representative={token}."
        )
    if backbone.pooler is not None:
        backbone.pooler.requires_grad_(False)  # unused: it is only counted
    return backbone, loaded if causal_lm else None


def build_model(run: RunConfig, num_outputs: int, kind: str) -> TaskModel:
    """Build the model of a run: pretrained weights, head drawn from `run.seed`, fp32, evaluation mode, on
    the CPU.

    Raises:
        ModelError: the weights cannot be loaded, or the model cannot do the task.
    """
    spec = run.model
    if kind == "generation":
        backbone, causal_lm = build_backbone(spec, causal_lm=True)
        head: nn.Module = causal_lm.get_output_embeddings()
    else:
        backbone, causal_lm = build_backbone(_as_its_head_reads(spec, run.head_in_force))
        with torch.random.fork_rng(devices=[]):  # building draws nothing from the global generator
            head = build_head(
                run.head_in_force, backbone, num_outputs, spec.head_dropout, spec.rep_norm == "rms"
            )
        initialise(head, run.seed)
    dropped = {name: rate for name, rate in vars(backbone.model.config).items() if name.endswith("layerdrop")}
    if any(dropped.values()) and run.stage == "run":
        raise ModelError(
            f"model={spec.name} leaves out whole layers at random in training ({dropped}), and then not "
            "every layer has a state in each step: set layerdrop to 0 in its config.json."
        )
    model = TaskModel(backbone, head, kind, run.train.label_smoothing or 0.0, causal_lm).eval()
    log.info(
        "%s: %d layers of %d, %s parameters, head %s",
        spec.name,
        backbone.num_layers,
        backbone.hidden_size,
        f"{sum(p.numel() for p in model.parameters()):,}",
        "language model" if kind == "generation" else run.head_in_force,
    )
    return model


def _as_its_head_reads(spec: ModelSpec, head: str) -> ModelSpec:
    """Ask for the pooler where the standard head reads the pretrained one."""
    return dataclasses.replace(spec, pooler=True) if head == "standard" else spec


def build_head(
    name: str, backbone: Backbone, num_outputs: int, dropout: float, rms: bool = False
) -> nn.Module:
    """Build a head by name (`concat`, `pooled` or `standard`); its weights are not yet drawn from a seed."""
    if name == "standard":
        return build_standard_head(backbone, num_outputs)
    if name == "concat":
        return ConcatHead(backbone.num_layers, backbone.hidden_size, num_outputs, dropout, rms)
    if name == "pooled":
        return PooledHead(backbone.hidden_size, num_outputs, dropout, rms)
    raise ModelError(f"unknown head {name}: concat, pooled or standard.")
