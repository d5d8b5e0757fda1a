"""What stands on the backbone: the paper's concatenation head (§3.2, §4.3), the pooled head, and the
architecture's own (`head=standard`), which is the library's `...ForSequenceClassification`.

The first two take the representative vectors of all layers, [B, L, H], and return [B, C]. The third is the
library's class itself, with a stand-in where its base model was: the class is handed the last layer's states
and does with them what it always does. Training hands it one token per text, so that the last layer need not
run for the others; an evaluation hands it all of them, as the library does, so that a model that is saved and
loaded again gives the same numbers bit for bit. Generation uses the language model's own head, untouched
(`layertune.models.task_model`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from layertune.errors import ModelError, message_of
from layertune.models.backbone import Backbone, scoring_mode

if TYPE_CHECKING:
    from layertune.tasks import Batch


def rms_normalised(vectors: Tensor, eps: float = 1e-6) -> Tensor:
    """Scale each vector to a root mean square of one, without parameters (`model.rep_norm: rms`)."""
    return vectors * torch.rsqrt(vectors.square().mean(-1, keepdim=True) + eps)


class ConcatHead(nn.Module):
    """Concatenate the vectors of all layers -> dropout -> Linear(L·H, H) -> ReLU -> Linear(H, C).

    Paper: §4.3; dropout 0.3; 7,080,194 parameters for L = 12, H = 768, C = 2.
    """

    def __init__(
        self, num_layers: int, hidden_size: int, num_outputs: int, dropout: float, rms: bool = False
    ):
        super().__init__()
        self.rms = rms
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(num_layers * hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, num_outputs)

    def forward(self, representatives: Tensor) -> Tensor:
        """Map [B, L, H] to [B, C]."""
        vectors = rms_normalised(representatives) if self.rms else representatives
        return self.out(torch.relu(self.project(self.dropout(vectors.flatten(1)))))


class PooledHead(nn.Module):
    """The standard classifier on the last layer's vector: Linear(H, H) -> tanh -> dropout -> Linear(H, C).

    Used by `elsa` (Lee et al. 2019). Choice: [pooled head (not the paper's)] the dense + tanh layer is BERT's
    pooler, freshly initialised for every model: only BERT comes with a pretrained one, and a comparison
    across models should not depend on that.
    """

    def __init__(self, hidden_size: int, num_outputs: int, dropout: float, rms: bool = False) -> None:
        super().__init__()
        self.rms = rms
        self.project = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden_size, num_outputs)

    def forward(self, representatives: Tensor) -> Tensor:
        """Map [B, L, H] to [B, C]; reads layer L only."""
        vector = representatives[:, -1]
        vector = rms_normalised(vector) if self.rms else vector
        return self.out(self.dropout(torch.tanh(self.project(vector))))


def initialise(head: nn.Module, seed: int) -> None:
    """Draw the head's weights anew (PyTorch's default scheme) from a seed alone; the head must be on the CPU.

    Neither what was drawn before nor the global random state changes the result, and the global state is
    left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if callable(draw := getattr(head, "draw", None)):  # a head that knows how its library draws it
            draw()
            return
        for module in head.modules():
            if callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()


_SAME = 1e-3  # of the largest logit: one token and all tokens differ by rounding alone


class _Given(nn.Module):
    """Stands where the base model was: returns the states it is given, and what the pooler makes of them.

    Args:
        pooler: the base model's pooler, where the head reads it.
    """

    def __init__(self, pooler: nn.Module | None) -> None:
        super().__init__()
        self.pooler = pooler

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> Any:
        """Return [B, T, H] as a base model's output."""
        from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

        pooled = None if self.pooler is None else self.pooler(inputs_embeds)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=inputs_embeds, pooler_output=pooled
        )


class StandardHead(nn.Module):
    """The library's head on the states of the last layer.

    Args:
        shell: a `...ForSequenceClassification` whose base model is a stand-in.
    """

    def __init__(self, shell: Any) -> None:
        super().__init__()
        self.shell = shell

    @property
    def out(self) -> nn.Linear:
        """The last linear map, which returns the logits."""
        return [module for module in self.shell.modules() if isinstance(module, nn.Linear)][-1]

    @property
    def _given(self) -> _Given:
        return getattr(self.shell, self.shell.base_model_prefix)

    def forward(self, representatives: Tensor) -> Tensor:
        """Map [B, L, H] to [B, C]; reads layer L only."""
        states = representatives[:, -1:]
        ones = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        padding = self.shell.config.get_text_config().pad_token_id
        tokens = ones if padding is None else ones * (padding + 1)  # any that is no padding
        return self._logits(states, tokens, ones)

    def read(self, states: Tensor, batch: Batch) -> Tensor:
        """Map the states of all tokens, [B, T, H], to [B, C]: the library's own way."""
        tokens = batch.input_ids
        padding = self.shell.config.get_text_config().pad_token_id
        if padding is not None:  # whatever fills up the batch
            tokens = tokens.masked_fill(batch.attention_mask == 0, padding)
        return self._logits(states, tokens, batch.attention_mask)

    def _logits(self, states: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.shell(input_ids=tokens, attention_mask=mask, inputs_embeds=states).logits

    def draw(self) -> None:
        """Draw the weights as the library does, from the global generator; a pretrained pooler stays."""
        kept = set(self._given.modules())
        for module in self.shell.modules():
            if module not in kept and module is not self.shell:
                self.shell._init_weights(module)

    def whole(self, base: nn.Module, label_names: list[str] | None = None) -> Any:
        """Return the library's model with this head: it shares all weights with `base` and the head.

        Args:
            base: the model without its head.
            label_names: by label id; None for regression.
        """
        model = copy.copy(self.shell)
        base_with_pooler = copy.copy(base)
        for module in (model, base_with_pooler):
            module.__dict__["_modules"] = dict(module._modules)
        if self._given.pooler is not None:
            base_with_pooler._modules["pooler"] = self._given.pooler
        model._modules[self.shell.base_model_prefix] = base_with_pooler
        model.config = config = copy.deepcopy(self.shell.config)
        if label_names is None:
            config.problem_type = "regression"
        else:
            config.problem_type = "single_label_classification"
            name_labels(config, label_names)
        return model


def name_labels(config: Any, names: Sequence[str]) -> None:
    """Write the names of the labels, by id, into a configuration of the library."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}


def standard_head_of(whole: Any, backbone: Backbone) -> StandardHead:
    """Return the head that a model of the library has, with the weights it has.

    Args:
        whole: a `...ForSequenceClassification`; it is left as it is and shares its weights with the head.
        backbone: its base model.

    Raises:
        ModelError: it has no such head, or one that reads something else than the representative token.
    """
    shell = copy.copy(whole)
    shell.__dict__["_modules"] = dict(whole._modules)
    prefix = whole.base_model_prefix
    if getattr(whole, prefix, None) is not backbone.model:
        raise ModelError(f"{type(whole).__name__} has no classification head on a base model.")
    shell._modules[prefix] = _Given(backbone.pooler)
    head = StandardHead(shell)
    _refuse_what_reads_more(backbone, head)
    return head


def build_standard_head(backbone: Backbone, num_outputs: int) -> StandardHead:
    """Build the head of a model's architecture; a pooler that it reads leaves the backbone for the head.

    Raises:
        ModelError: the library has no such head, or it reads something else than the representative token.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as KNOWN

    base: Any = backbone.model
    if type(base.config) not in KNOWN:
        raise ModelError(
            f"transformers has no classification head for {base.config.model_type}: say head=concat."
        )
    config = copy.deepcopy(base.config)
    config.num_labels = num_outputs
    with torch.device("meta"):  # shapes alone: a second base model would need the memory of the first
        shell = KNOWN[type(config)](config)
    empty = getattr(shell, shell.base_model_prefix)
    pooler = backbone.pooler if getattr(empty, "pooler", None) is not None else None
    setattr(shell, shell.base_model_prefix, _Given(None))
    shell.to_empty(device="cpu")
    getattr(shell, shell.base_model_prefix).pooler = pooler
    if pooler is not None:
        pooler.requires_grad_(True)
    if backbone.pooler is not None:
        base.pooler = None
    head = StandardHead(shell.eval())
    head.draw()
    _refuse_what_reads_more(backbone, head)
    return head


@torch.no_grad()
def _refuse_what_reads_more(backbone: Backbone, head: StandardHead) -> None:
    """Try the head on states made up at random: one token must give what all of them give."""
    from layertune.tasks.encode import Batch

    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]], device=backbone.device)
    padding = head.shell.config.get_text_config().pad_token_id
    tokens = torch.full_like(mask, 3 if padding != 3 else 4)
    batch = Batch(tokens, mask, tokens[:, 0], None, np.arange(2))
    example = next(head.parameters())
    with torch.random.fork_rng(devices=[]):
        states = torch.randn(2, 4, backbone.hidden_size).to(example.device, example.dtype)
    name = type(head.shell).__name__
    try:
        with scoring_mode(head):
            one = head(backbone.representative(states, mask)[:, None])
            all_of_them = head.read(states, batch)
    except Exception as error:
        raise ModelError(
            f"{name} cannot be used as a head ({message_of(error)}): say head=concat."
        ) from error
    if (one - all_of_them).abs().max() > _SAME * all_of_them.abs().max():
        raise ModelError(
            f"{name} reads another token than the {backbone.representative_token} one, or several: say "
            "head=concat."
        )
