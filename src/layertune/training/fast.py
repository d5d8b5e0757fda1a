"""What `train=fast` changes in the loop: dropout below the lowest trained layer, where batches come from,
how much of the last layer runs, and on a CPU how dropout keeps its masks.

Defined for every method: dropout is off in the frozen modules below the lowest trained parameter. Where
nothing lies below it, `fast` is `published`.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from layertune.config import RunConfig
from layertune.config.identity import weights_key
from layertune.errors import ConfigError
from layertune.methods import Method
from layertune.models.last_layer import why_not_one_token
from layertune.models.partial import why_not_partial
from layertune.records.record import CacheRecord
from layertune.tasks import Batch, TaskData
from layertune.training.byte_masks import use_byte_masks, use_own_masks
from layertune.training.cache_store import CacheStore, Entry, MemoryStore
from layertune.training.graphs import CudaRecorder, StepGraphs, why_no_graphs
from layertune.training.prefix_cache import (
    PrefixSource,
    build_entry,
    entry_bytes,
    open_source,
    prefix_key,
    shallower_key,
    why_not_in_memory,
)
from layertune.training.runtime import Runtime, Stopwatch
from layertune.training.witness import places_of

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.training.phases import Phases

log = logging.getLogger(__name__)

# Choice: [padding] to a multiple of 8 on a GPU: few shapes to capture, and what tensor cores like; a CPU
# gains nothing.
CUDA_MULTIPLE = 8


class BatchSource:
    """Where the loop's batches come from: the tokens, or with `train=fast` the prefix cache.

    Args:
        run: its mode, and how the cache is to be.
        data: the training split.
        runtime: device and precision.
    """

    def __init__(self, run: RunConfig, data: TaskData, runtime: Runtime) -> None:
        self.run, self.data, self.runtime = run, data, runtime
        self.cost = CacheRecord()
        self._multiple = CUDA_MULTIPLE if runtime.device.type == "cuda" else 1
        self._source: PrefixSource | None = None
        self._phase: int | None = None
        self._model: TaskModel
        self._graphs: StepGraphs | None = None

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the examples at these row numbers."""
        return (self._source or self.data.train.store).batch(rows, self._multiple)

    def gradient(self, batch: Batch, share: float) -> Tensor:
        """Run forward and backward on a batch on the device; return its share of the loss, still there."""
        return self._eager(batch, share) if self._graphs is None else self._graphs(batch, share)

    def _eager(self, batch: Batch, share: float) -> Tensor:
        with self.runtime.accelerator.autocast():
            part = self._model(batch).loss * share
        self.runtime.accelerator.backward(part)
        return part.detach()

    def follow(self, phases: Phases, new_epoch: bool = False) -> None:
        """Set the modes of the model in training; make or open the cache when its first phase starts."""
        self._model = phases.trained
        if self.run.train.mode != "fast" or (phases.index == self._phase and not new_epoch):
            return
        model = phases.trained
        lowest = lowest_trained(model, phases.held)
        if not new_epoch:  # in mid-epoch: the phase before may have switched off what is trained now
            model.train()
        quiet_below(model, lowest)
        if self._phase is None:
            self._source = self._open(model, lowest, len(phases.plan), phases.own)
        bytes_kept = lowest > 0 and self.runtime.device.type == "cpu"
        (use_byte_masks if bytes_kept else use_own_masks)(model)
        if self._phase != phases.index:
            self._shorten(model, lowest)
            self._graphs = self._capturing(phases)
        self._phase = phases.index

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: a run that had ended opens no cache again to know its cost."""
        return dataclasses.asdict(self.cost)

    def load(self, state: dict[str, Any]) -> None:
        """Take up the state of a checkpoint."""
        self.cost = CacheRecord(**state)

    def close(self, model: TaskModel) -> None:
        """Leave the model as it was; let go of cache and graphs, which hold memory of the device."""
        model.backbone.one_token_last = False
        use_own_masks(model)
        self._source = self._graphs = None

    def _capturing(self, phases: Phases) -> StepGraphs | None:
        reason = why_no_graphs(
            self.runtime.device,
            fast=self.run.train.mode == "fast",
            kind=self.data.kind,
            parts=self.run.train.micro_batch is not None,
            steady=len(phases.plan) == 1 and is_steady(type(phases.method)),
        )
        if reason is not None:
            log.info("CUDA graphs: not used (%s)", reason)
            return None
        return StepGraphs(self._eager, phases.held.values(), CudaRecorder())

    def _shorten(self, model: TaskModel, lowest: int) -> None:
        reason = "nothing lies below the lowest trained parameter" if lowest == 0 else None
        if model.kind == "generation":
            reason = "the loss reads all tokens"
        reason = reason or why_not_one_token(model.backbone)
        log.info("last layer: %s", f"all tokens ({reason})" if reason else "the representative token alone")
        model.backbone.one_token_last = reason is None

    def _open(self, model: TaskModel, lowest: int, num_phases: int, own: bool) -> PrefixSource | None:
        """Return the cached prefix, or None for a reason, which is logged and recorded.

        The reason follows from the configuration alone, never from this machine.
        """
        spec, store = self.run.cache, self.data.train.store
        layer = lowest if spec.layer is None else min(spec.layer, lowest)
        reason = self._why_not(model, layer, num_phases, own)
        if reason is not None:
            log.info("prefix cache: not used (%s)", reason)
            self.cost = CacheRecord(reason=reason)
            return None
        cache = CacheStore(self.run.cache_dir / "prefix", int(spec.max_gb * 1e9))
        opening = Stopwatch(self.runtime.device)  # keys, checks, copies: all but the making of an entry
        with opening.counting():
            key = self._key(model, layer)
            entry = cache.find(key)
        reused = entry is not None
        not_kept = None
        if entry is None:
            entry, reused, not_kept = self._made(model, cache, key, layer, opening)
        with opening.counting():
            source = self._placed(model, entry, layer, not_kept)
        cost = entry.facts["cost"]
        seconds = cost["seconds"] + opening.seconds
        self.cost = CacheRecord(
            used=True,
            reused=reused,
            seconds=seconds,
            cpu_seconds=cost["cpu_seconds"] + opening.cpu_seconds,
            bytes=entry.num_bytes,
            layer=layer,
            dtype=spec.dtype,
            place=source.place,
        )
        log.info(
            "prefix cache: layers below %d over %d examples, %s %.1f s",
            layer,
            len(store),
            "reused, made in" if reused else "made in",
            seconds,
        )
        return source

    def _why_not(self, model: TaskModel, layer: int, num_phases: int, own: bool) -> str | None:
        if num_phases > 1:
            return "what is trained changes from phase to phase"
        if not own:
            return "another model than the pretrained one is trained"
        if layer < 2:
            return "no layer lies below the lowest trained parameter"
        if model.kind == "generation" and layer > model.backbone.num_layers:
            return "the language model's head reads what the last layer makes of every token"
        above = {module for part in model.backbone.layers[layer - 1 :] for module in part.modules()}
        below = [module for module in model.backbone.modules() if module not in above]
        if any(module._forward_hooks or module._forward_pre_hooks for module in below):
            return "something is hooked to a layer below"
        if any("forward" in vars(module) for module in below):
            return "the forward pass of a layer below is another than its class's"
        return why_not_partial(model.backbone)

    def _made(
        self,
        model: TaskModel,
        cache: CacheStore,
        key: dict[str, object],
        layer: int,
        opening: Stopwatch,
    ) -> tuple[Entry, bool, str | None]:
        """Return the entry of a layer, whether another process made it meanwhile, and why it is not on disk.

        What a run computes must not depend on whether its cache could be kept. States made batch by batch in
        training would differ in their last digits, so what the disk cannot hold is made and held in memory.

        Raises:
            ConfigError: neither can hold it.
        """
        store, dtype = self.data.train.store, self.run.cache.dtype
        num_bytes = entry_bytes(model, store, layer, dtype)

        def build(into: CacheStore | MemoryStore) -> None:
            with opening.counting():
                lower = self._lower_entry(model, cache, key, layer)
                batch_of = None if lower is None else self._placed(model, *lower).batch
            so_far = None if lower is None else lower[0].facts["cost"]
            autocast = self.runtime.accelerator.autocast
            build_entry(model, store, layer, dtype, into, key, autocast, batch_of, so_far)

        try:
            with cache.building(key):
                with opening.counting():
                    if (entry := cache.find(key)) is not None:
                        return entry, True, None
                    reason = cache.make_room(key, num_bytes)
                if reason is None:
                    build(cache)
                    with opening.counting():
                        if (entry := cache.find(key)) is not None:
                            return entry, False, None
                    reason = "another run needed its room before it could be opened"
        except OSError as error:
            reason = f"it could not be written: {error.strerror}"
        if (too_large := why_not_in_memory(num_bytes)) is not None:
            raise ConfigError(
                f"train=fast holds what the layers below {layer} make of {len(store):,} examples, "
                f"{num_bytes / 1e9:.2f} GB, and cannot: on disk, {reason}; {too_large}. Raise cache.max_gb, "
                "give an outputs_dir with more room, or take train=published."
            )
        memory = MemoryStore()
        build(memory)
        assert memory.entry is not None
        return memory.entry, False, reason

    def _lower_entry(
        self, model: TaskModel, cache: CacheStore, key: dict[str, object], layer: int
    ) -> tuple[Entry, int] | None:
        """Return the entry of the deepest layer below, to start from; exact ones only.

        What a run computes must not depend on which runs came before: a rounded cache is always made from
        the tokens. `cache.layer` lets several depths share a rounded one.
        """
        if self.run.cache.dtype != "fp32" or self.run.train.precision != "fp32":
            return None
        for lower in range(layer - 1, 1, -1):
            if (entry := cache.find(shallower_key(key, model, lower))) is not None:
                log.info("prefix cache: starts from that of layer %d", lower)
                return entry, lower
        return None

    def _key(self, model: TaskModel, layer: int) -> dict[str, object]:
        return prefix_key(
            model,
            self.data.train.store,
            layer,
            self.run.cache.dtype,
            weights=weights_key(self.run),
            fingerprint=self.data.provenance.fingerprint_sha256,
            precision=self.runtime.precision,
        )

    def _placed(
        self, model: TaskModel, entry: Entry, layer: int, not_kept: str | None = None
    ) -> PrefixSource:
        dtype = next(model.backbone.parameters()).dtype
        store, device = self.data.train.store, self.runtime.device
        return open_source(entry, store, layer, dtype, device, self.run.cache.place, not_kept)


def is_steady(method: type[Method]) -> bool:
    """Whether a method leaves the steps alone: a hook could change what trains, or how, behind a graph."""
    hooks = ("on_epoch_start", "before_step", "after_backward", "after_step")
    return all(getattr(method, hook) is getattr(Method, hook) for hook in hooks)


def lowest_trained(model: TaskModel, held: object) -> int:
    """Return the lowest layer with a parameter that may train, 0 for what lies below the layers, L + 1 where
    only the head trains.

    Args:
        model: in training.
        held: names of the parameters that the optimiser holds.
    """
    places = places_of(model)
    found = [place for name, place in places.items() if name in held and place is not None]
    return min(found, default=model.backbone.num_layers + 1)


def quiet_below(model: TaskModel, lowest: int) -> None:
    """Switch dropout off in everything below a layer: embeddings and lower layers (0 = nowhere)."""
    if lowest == 0:
        return
    backbone = model.backbone
    above = {module for layer in backbone.layers[lowest - 1 :] for module in layer.modules()}
    for module in backbone.model.modules():
        if module not in above:
            module.training = False
