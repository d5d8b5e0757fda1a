"""How a run comes by its cache of frozen layers: it is found on disk, or made.

It is made from the cache of fewer layers where that is exact, else from the tokens; and it is held in memory
alone where the disk cannot keep it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layertune.cache_store import CacheStore, Entry, MemoryStore
from layertune.config import RunConfig
from layertune.config.identity import weights_key
from layertune.errors import ConfigError
from layertune.fast.cache import (
    PrefixSource,
    build_entry,
    entry_bytes,
    open_source,
    prefix_key,
    shallower_key,
    why_not_in_memory,
)
from layertune.records.record import CacheRecord
from layertune.runtime import Runtime, Stopwatch
from layertune.tasks import TaskData

if TYPE_CHECKING:
    from layertune.models import TaskModel

log = logging.getLogger(__name__)


def why_no_cache(model: TaskModel, layer: int, num_phases: int, own: bool) -> str | None:
    """Say why the states of the layers below `layer` are not cached; None where they are.

    The reason follows from the configuration alone, never from the machine: the numbers of a run must not
    depend on how much room a machine has.

    Args:
        model: that is trained.
        layer: the first layer that would be left to run.
        num_phases: how many phases the training has.
        own: whether the model of the run itself is trained, not another one made from it.
    """
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
    if not model.backbone.architecture.plain:
        return (
            f"the layers of a {model.backbone.model.config.model_type} model hand on more than their states"
        )
    return None


@dataclass(frozen=True)
class Opening:
    """Opens the cache of one run: what the layers below `layer` make of its training split."""

    run: RunConfig
    data: TaskData
    runtime: Runtime
    model: TaskModel
    layer: int

    def open(self) -> tuple[PrefixSource, CacheRecord]:
        """Return the source of batches and what it cost.

        Raises:
            ConfigError: neither disk nor memory can hold it.
        """
        spec, store = self.run.cache, self.data.train.store
        cache = CacheStore(self.run.cache_dir / "prefix", int(spec.max_gb * 1e9))
        # Times keys, checks and copies; an entry knows what it cost itself.
        opening = Stopwatch(self.runtime.device)
        with opening.counting():
            key = prefix_key(
                self.model,
                store,
                self.layer,
                spec.dtype,
                weights=weights_key(self.run),
                fingerprint=self.data.provenance.fingerprint_sha256,
                precision=self.runtime.precision,
            )
            entry = cache.find(key)
        reused, not_kept = entry is not None, None
        if entry is None:
            entry, reused, not_kept = self._made(cache, key, opening)
        with opening.counting():
            source = self._placed(entry, self.layer, not_kept)
        cost = entry.facts["cost"]
        seconds = cost["seconds"] + opening.seconds
        log.info(
            "prefix cache: layers below %d over %d examples, %s %.1f s",
            self.layer,
            len(store),
            "reused, made in" if reused else "made in",
            seconds,
        )
        return source, CacheRecord(
            used=True,
            reused=reused,
            seconds=seconds,
            cpu_seconds=cost["cpu_seconds"] + opening.cpu_seconds,
            bytes=entry.num_bytes,
            layer=self.layer,
            dtype=spec.dtype,
            place=source.place,
        )

    def _made(
        self, cache: CacheStore, key: dict[str, Any], opening: Stopwatch
    ) -> tuple[Entry, bool, str | None]:
        """Make the entry, on disk or else in memory.

        What a run computes must not depend on whether its cache could be kept. Without a cache the states
        would be computed in the batches of training, and differ in their last digits from those of the
        cache's own batches. So an entry that the disk cannot hold is made by the same pass and held in
        memory.

        Returns:
            The entry; whether another process made it meanwhile; and why it is not on disk, None where it is.
        """
        model, store, dtype = self.model, self.data.train.store, self.run.cache.dtype
        num_bytes = entry_bytes(model, store, self.layer, dtype)

        def build(into: CacheStore | MemoryStore) -> None:
            with opening.counting():
                lower = self._shallower(cache, key)
                batch_of = None if lower is None else self._placed(*lower).batch
            so_far = None if lower is None else lower[0].facts["cost"]
            build_entry(model, store, self.layer, dtype, into, key, self.runtime.autocast, batch_of, so_far)

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
                f"train=fast holds what the layers below {self.layer} make of {len(store):,} examples, "
                f"{num_bytes / 1e9:.2f} GB, and cannot: on disk, {reason}; {too_large}. Raise cache.max_gb, "
                "give an outputs_dir with more room, or take train=published."
            )
        memory = MemoryStore()
        build(memory)
        assert memory.entry is not None
        return memory.entry, False, reason

    def _shallower(self, cache: CacheStore, key: dict[str, Any]) -> tuple[Entry, int] | None:
        """Return the entry of fewer layers to start from, the deepest there is, and its layer; None for none.

        Only exact entries (fp32) are taken. From a rounded one other states would come than from the tokens,
        and what a run computes must not depend on which runs came before it. `cache.layer` lets runs of
        several depths share one rounded entry.
        """
        if self.run.cache.dtype != "fp32" or self.run.train.precision != "fp32":
            return None
        for lower in range(self.layer - 1, 1, -1):
            if (entry := cache.find(shallower_key(key, self.model, lower))) is not None:
                log.info("prefix cache: starts from that of layer %d", lower)
                return entry, lower
        return None

    def _placed(self, entry: Entry, layer: int, not_kept: str | None = None) -> PrefixSource:
        dtype = next(self.model.backbone.parameters()).dtype
        store, device = self.data.train.store, self.runtime.device
        return open_source(entry, store, layer, dtype, device, self.run.cache.place, not_kept)
