"""What LoRA, adapters, prefixes and (IA)³ share: new parameters in a frozen backbone, and the head, train."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from layertune.config import RunConfig
from layertune.errors import ConfigError
from layertune.methods.base import Method, Preparation, count, head_parts
from layertune.models.architectures import Sites, known_type, sites_of

if TYPE_CHECKING:
    from peft import PeftConfig

    from layertune.models import Backbone, TaskModel
    from layertune.runtime import Runtime
    from layertune.tasks import TaskData

log = logging.getLogger(__name__)


class AddedParameters(Method):
    """Base of methods that insert parameters: a subclass says where and which.

    Modules are inserted in place, so that the language model of a generation task, which shares them,
    decodes with them. Nothing here makes the input of a block require a gradient.

    Raises:
        ConfigError: an option is out of range, or the architecture is one the method cannot work on.
    """

    def __init__(self, run: RunConfig) -> None:
        super().__init__(run)
        self.options = self.spec.options
        model_type = known_type(run.model)
        if model_type is not None:
            self.check_architecture(model_type)

    def check_architecture(self, model_type: str) -> Sites:
        """Return the sites of an architecture; raise a ConfigError where the method cannot work on it."""
        return sites_of(model_type, self.spec.name)

    def insert(self, backbone: Backbone, sites: Sites) -> dict[str, Any]:
        """Put the new modules into a backbone, drawing from the global generator; return facts to record."""
        raise NotImplementedError

    def also_trained(self, backbone: Backbone) -> Iterable[nn.Parameter]:
        """Return parameters of the backbone that train too."""
        return ()

    def prepare(self, model: TaskModel, data: TaskData, runtime: Runtime) -> Preparation:
        """Insert the new parameters, drawn from the run's seed alone; train them and the head."""
        return self.insert_into(model)

    def insert_into(self, model: TaskModel) -> Preparation:
        """Do what `prepare` does; it needs no data."""
        sites = self.check_architecture(model.backbone.model.config.model_type)
        pretrained, device = set(model.parameters()), model.device
        with drawn_from(self.run.seed):
            facts = self.insert(model.backbone, sites)
        model.to(device).train(model.training)
        added = {name: p for name, p in model.named_parameters() if p not in pretrained}
        head = head_parts(model, self.run.model.train_final_norm)
        beside = {parameter for part in head for parameter in part.parameters()}
        trained = {*added.values(), *self.also_trained(model.backbone), *beside}
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        log.info("%s: %s parameters added", self.spec.name, f"{count(added.values()):,}")
        return Preparation(expected_trainable=count(trained), added=tuple(added), facts=facts)

    def rebuilt(self, model: TaskModel, structure: Any) -> TaskModel:
        """Insert the new parameters."""
        self.insert_into(model)
        return model

    def peft_config(self, backbone: Backbone) -> PeftConfig | None:
        """Return how the `peft` library would insert the same; None where it cannot."""
        return None

    def one_of(self, name: str, allowed: Iterable[str]) -> None:
        """Raise a ConfigError if an option is none of the allowed words."""
        if self.options[name] not in allowed:
            raise ConfigError(
                f"method.{name}={self.options[name]} does not exist; known: {', '.join(sorted(allowed))}."
            )


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Seed the CPU generator for the length of the block, and give it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
