"""RECAP (Ilhan et al., CVPR 2024; git-disl/recap): prune, mask, fine-tune what is left, write back, again.

The whole model lies on the CPU; in each phase a smaller copy is trained and evaluated on the device, and of
its attention and feed-forward matrices only the rows that Fisher information singles out. What was updated
returns to its place in the whole model; what was removed or masked is as it was.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layertune.config import RunConfig
from layertune.config.schema import Count, Share, Whole
from layertune.errors import ConfigError
from layertune.methods.base import Method, Phase, Preparation, count
from layertune.methods.recap.carried import Counts, Moments, write_back
from layertune.methods.recap.prune import (
    Kept,
    Layout,
    Pool,
    everything,
    highest_rows,
    layout_of,
    most_of_a_layer,
    positions,
    pruned_copy,
    removed_after,
    without_lowest,
)
from layertune.methods.recap.scores import fisher_rows, taylor
from layertune.models.architectures import known_type, sites_of
from layertune.models.parameters import unused_parameters

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.runtime import Runtime
    from layertune.tasks import TaskData

log = logging.getLogger(__name__)


class Recap(Method):
    """One initial phase and `rounds` more, each with a pruned model, a mask and a schedule of its own.

    `prune` and `mask` are the shares of groups and of rows that sit out a phase; `prune_steps` removes the
    groups in so many goes, with new scores in between.

    Choice: [RECAP] all phases together take the other methods' steps; `source_budget` trains two epochs in
    each.
    Choice: [RECAP, embeddings] `free_embeddings` null = as in the source (true), but in generation frozen
    with the language model's head, which most models have in common.

    Raises:
        ConfigError: an option is out of range (`prune` also where a layer would lose too much), weight decay
            is asked for (it would move what is masked), or the architecture is unknown.
    """

    def __init__(self, run: RunConfig) -> None:
        super().__init__(run)
        self.prune: float = self.value("prune", Share)
        self.mask: float = self.value("mask", Share)
        self.rounds: int = self.value("rounds", Whole)
        self.prune_steps: int = self.value("prune_steps", Count)
        if run.train.weight_decay:
            raise ConfigError(
                f"method=recap takes train.weight_decay=0, not {run.train.weight_decay}: "
                "decay would move the masked rows."
            )
        if (model_type := known_type(run.model)) is not None:
            sites_of(model_type, self.spec.name)
        free: bool | None = self.option("free_embeddings", bool)
        self.free_embeddings: bool = run.task.kind != "generation" if free is None else free
        self.moments = Moments()
        self.steps: list[int] = []  # of each phase
        self.kept: Kept = ()
        self.masks: dict[str, Tensor] = {}  # matrix of the pruned model -> [rows] that train
        self.trained: TaskModel | None = None
        self._resumed: Mapping[str, Tensor] | None = None

    # -- before training ---------------------------------------------------------------------------------

    def prepare(self, model: TaskModel, data: TaskData, runtime: Runtime) -> Preparation:
        """Move the whole model to the CPU, and work out how large the pruned ones will be."""
        model.to("cpu")
        self.data, self.device = data, runtime.device
        self.layout: Layout = layout_of(model.backbone)
        self.whole = self._unfreeze(model)
        self.counts = Counts(self.whole, self._embeddings(model))
        num_layers = model.backbone.num_layers
        gone = {pool: self._gone(pool, num_layers) for pool in self.layout.pools}
        self.expected = count(self.whole.values()) - sum(pool.numbers * n for pool, n in gone.items())
        facts = {f"pruned_{pool.name}": n for pool, n in gone.items()}
        return Preparation(self.expected, facts=facts | {"embeddings_trained": self.free_embeddings})

    def _gone(self, pool: Pool, num_layers: int) -> int:
        """Return how many groups of a pool a phase goes without."""
        groups, most = pool.size * num_layers, most_of_a_layer(pool.size)
        gone = removed_after(groups, self.prune, 1, 1)
        if gone > most * num_layers:
            raise ConfigError(
                f"method.prune={self.prune} is not allowed here: it removes {gone} of {groups} {pool.name} "
                f"and {most} of the {pool.size} of a layer may go, at most {most * num_layers}."
            )
        return gone

    def epochs(self, epochs: int) -> int:
        """Return two epochs per phase with `source_budget`, else the other methods' epochs."""
        return 2 * (self.rounds + 1) if self.spec.options.get("source_budget") else epochs

    def phases(self, total_steps: int) -> tuple[Phase, ...]:
        """Divide the steps equally, the remainder to the last phases; each has its own decay."""
        number = min(self.rounds + 1, total_steps)
        if number <= self.rounds:
            log.warning("recap: %d steps are too few for %d phases", total_steps, self.rounds + 1)
        steps, rest = divmod(total_steps, number)
        self.steps = [steps + (phase >= number - rest) for phase in range(number)]
        return tuple(Phase(count, restart_schedule=True) for count in self.steps)

    def expected_in_phase(self, phase: int) -> int:
        """Return the size of the pruned model's trainable part: the same in each phase."""
        return self.expected

    # -- a phase ---------------------------------------------------------------------------------------------

    def start_phase(self, model: TaskModel, phase: int) -> TaskModel:
        """Prune a copy of the whole model by Taylor scores, and mask rows by Fisher scores."""
        self.kept = everything(self.layout, model.backbone.num_layers)
        for step in range(1, self.prune_steps + 1):
            self.kept = self._without_lowest(model, phase, step)
        trained = self._pruned(model)
        rows = fisher_rows(trained, self.layout, self.data, self.run.train, (self.run.seed, phase, 0))
        self.masks = {}
        for pool in rows:
            self.masks |= highest_rows(pool, self.mask)
        self._log(phase)
        return self._adopt(model, trained)

    def _pruned(self, model: TaskModel) -> TaskModel:
        return pruned_copy(model, self.layout, self.kept).to(self.device)

    def _without_lowest(self, model: TaskModel, phase: int, step: int) -> Kept:
        """Return what is left of each pool after a sub-step; what it scores is gone when it returns."""
        seed = self.run.seed, phase, step
        scores = taylor(self._pruned(model), self.layout, self.data, self.run.train, seed)
        left = []
        for pool, groups, of_pool in zip(self.layout.pools, self.kept, scores, strict=True):
            everyone = pool.size * len(groups)
            gone = [removed_after(everyone, self.prune, n, self.prune_steps) for n in (step - 1, step)]
            left.append(without_lowest(groups, of_pool, gone[1] - gone[0], pool.size))
        return tuple(left)

    def _adopt(self, model: TaskModel, trained: TaskModel) -> TaskModel:
        """Make a pruned model the one of this phase."""
        self.trained = trained
        self.places = positions(model, self.layout, self.kept)
        free = self._unfreeze(trained)
        self.shaped = {
            name: mask.to(self.device).view((-1, 1) if self.layout.row_dim == 0 else (1, -1))
            for name, mask in self.masks.items()
        }
        self._masked = [(free[name], mask) for name, mask in self.shaped.items()]
        self.counts.add(self.places, self.masks, self.layout.row_dim)
        return trained

    def optimizer_ready(self, optimizer: torch.optim.Optimizer, phase: int) -> None:
        """Put in what Adam knew when the last phase ended; masked rows start and stay without momentum."""
        assert self.trained is not None
        self.moments.put(optimizer, self._free(self.trained), self.places, self.shaped)

    def after_backward(self, model: TaskModel, step: int) -> None:
        """Drop the gradients of masked rows."""
        for parameter, mask in self._masked:
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    @torch.no_grad()
    def end_phase(self, model: TaskModel, optimizer: torch.optim.Optimizer, phase: int) -> None:
        """Write the updated weights, and what Adam knows about them, back to their original places."""
        trained = self._free(model)
        for name, parameter in trained.items():
            write_back(self.whole[name], parameter.detach().cpu(), self.places.get(name))
        self.moments.keep(optimizer, trained, self.whole, self.places, self.shaped)
        self.trained = None

    # -- resume and record ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the whole model, the structure in training, and what is carried from phase to phase."""
        return {
            "whole": {name: value.detach() for name, value in self.whole.items()},
            "kept": self.kept,
            "masks": self.masks,
            "moments": self.moments.state(),
            "counts": self.counts.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self._resumed = state["whole"]
        self.kept, self.masks = state["kept"], state["masks"]
        self.moments.load(state["moments"])
        self.counts.load(state["counts"])

    def resume_phase(self, model: TaskModel, phase: int) -> TaskModel:
        """Build the pruned model of a phase in progress anew; its values come from the checkpoint."""
        assert self._resumed is not None
        with torch.no_grad():
            for name, value in self.whole.items():
                value.copy_(self._resumed[name])
        self._resumed = None
        self.counts.phases.pop()  # _adopt adds it again
        return self._adopt(model, self._pruned(model))

    def structure(self) -> Any:
        """Return the groups that are left in this phase."""
        return [[list(groups) for groups in pool] for pool in self.kept]

    def rebuilt(self, model: TaskModel, structure: Any) -> TaskModel:
        """Prune a model to the groups that were left."""
        kept = tuple(tuple(tuple(groups) for groups in pool) for pool in structure)
        return pruned_copy(model, layout_of(model.backbone), kept)

    def facts(self) -> dict[str, Any]:
        """Return how many numbers trained: rows that were masked count as frozen."""
        return self.counts.facts(self.steps)

    def _unfreeze(self, model: TaskModel) -> dict[str, nn.Parameter]:
        model.requires_grad_(False)
        free = self._free(model)
        for parameter in free.values():
            parameter.requires_grad_(True)
        return free

    def _free(self, model: TaskModel) -> dict[str, nn.Parameter]:
        """Return what may train, by name: all that is used, the embeddings as the switch says."""
        held_back = unused_parameters(model)
        if not self.free_embeddings:
            held_back |= set(self._embeddings(model).values())
        return {name: p for name, p in model.named_parameters() if p not in held_back}

    @staticmethod
    def _embeddings(model: TaskModel) -> dict[str, nn.Parameter]:
        """Return what lies outside the layers and the final norm, by name: in generation also the language
        model's head, tied to the words or not.
        """
        backbone = model.backbone
        parts = [*backbone.layers, *([] if backbone.final_norm is None else [backbone.final_norm])]
        inside = {parameter for part in parts for parameter in part.parameters()} | unused_parameters(model)
        outside = set(backbone.parameters()) - inside
        if model.kind == "generation":
            outside |= set(model.head.parameters())
        return {name: p for name, p in model.named_parameters() if p in outside}

    def _log(self, phase: int) -> None:
        log.info(
            "recap, phase %d: %s heads and %s neurons by layer; %d of %d rows train",
            phase + 1,
            *("/".join(str(len(groups)) for groups in pool) for pool in self.kept),
            sum(int(mask.sum()) for mask in self.masks.values()),
            sum(len(mask) for mask in self.masks.values()),
        )
