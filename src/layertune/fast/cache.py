"""The cache of frozen layers (the prefix cache): what the layers below the lowest trained one make of each
text.

Without dropout their result never changes, so it is computed once. One pass over the training split stores
the state of every real token that enters layer l, and of every example the representative tokens of the
layers below, which the head reads. Each step of training then starts at layer l. Runs that differ in seed,
strategy or learning rate alone share an entry: a run finds it on disk, or makes it, from the cache of fewer
layers where that is exact, else from the tokens; it is held in memory alone where the disk cannot keep it.
"""

from __future__ import annotations

import json
import logging
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from torch import Tensor

from layertune.cache_store import CacheStore, Entry, MemoryStore
from layertune.config import RunConfig
from layertune.config.identity import weights_key
from layertune.errors import ConfigError, ModelError
from layertune.models.backbone import HandOn, scoring_mode
from layertune.models.parameters import fingerprints, places_of
from layertune.records.record import CacheRecord
from layertune.runtime import Runtime, Stopwatch, synchronize
from layertune.tasks import Batch, TaskData, TokenStore, sorted_batches
from layertune.tasks.encode import LowerLayers, sent

if TYPE_CHECKING:
    from layertune.models import Backbone, TaskModel

log = logging.getLogger(__name__)

PREFIX_VERSION = 2  # raised when the same input would give other states
FP8_LARGEST = 448.0  # of e4m3; each token is scaled to it
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp8": torch.float8_e4m3fn, "fp64": torch.float64}
_BATCH = 64  # examples per forward pass of the cache's own pass
# A cache is put on the device, or read into memory, where it takes at most a quarter of what is free.
_SHARE = 4

BatchOf = Callable[[np.ndarray], Batch]


@torch.no_grad()
def run_below(
    backbone: Backbone, batch: Batch, layer: int, representatives: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """Run the layers below `layer`, and no others.

    Args:
        backbone: its dropout should be off.
        batch: may come with the states of still lower layers; then it starts from these.
        layer: 2 to L + 1; L + 1 runs the whole model.
        representatives: whether the representative vectors are wanted.

    Returns:
        The states that enter `layer`, [B, T, H] (None for L + 1), and the representative vectors of the
        layers below it, [B, layer - 1, H] (None where they are not wanted).
    """
    pick = backbone.picker(batch.attention_mask)
    entering: Tensor | None = None
    kept: list[Tensor] = []

    def keep(number: int, _: Tensor, after: Tensor) -> None:
        nonlocal entering
        if representatives and number < layer:
            kept.append(pick(after))
        if number == layer - 1 < backbone.num_layers:
            entering = after

    above = range(layer, backbone.num_layers + 1)
    with backbone.replaced({number: HandOn(backbone.architecture.tuples) for number in above}):
        backbone.run(batch, keep)
    if not representatives:
        return entering, None
    vectors = [torch.stack(kept, dim=1)] if kept else []
    if batch.lower is not None and batch.lower.representatives is not None:
        vectors.insert(0, batch.lower.representatives)
    return entering, torch.cat(vectors, dim=1)


def prefix_key(
    model: TaskModel,
    store: TokenStore,
    layer: int,
    dtype: str,
    *,
    weights: str,
    fingerprint: str,
    precision: str,
) -> dict[str, Any]:
    """Return everything that the cached states depend on.

    Args:
        model: its architecture, attention backend and representative token count.
        store: the tokens, which tell the tokenizer and the maximal length apart; hashed in full.
        layer: the first layer that is left to run.
        dtype: how states are stored.
        weights: hash of the pretrained weights (`weights_key`); what a method made of the tensors below
            `layer` before training is told apart by their own hashes.
        fingerprint: of the rows.
        precision: fp32 or bf16 (autocast).
    """
    backbone = model.backbone
    places = places_of(model)
    config = json.loads(backbone.model.config.to_json_string())
    above = {name for name, place in places.items() if place is None or place >= layer}
    below = ((name, p) for name, p in model.named_parameters() if name not in above)
    return {
        "version": PREFIX_VERSION,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": model.device.type,
        "weights": weights,
        "below": fingerprints(below) | fingerprints(backbone.named_buffers()),
        "architecture": {name: value for name, value in config.items() if name != "_name_or_path"},
        "rows": fingerprint,
        "tokens": store.content_sha256(),
        "max_length": store.max_length,
        "layer": layer,
        "dtype": dtype,
        "precision": precision,
        "attention": backbone.model.config._attn_implementation,
        "representative": [backbone.representative_token, backbone.last_layer],
        "representatives": model.kind != "generation",
    }


def shallower_key(key: Mapping[str, Any], model: TaskModel, layer: int) -> dict[str, Any]:
    """Return the key of an entry of fewer layers, made from the key of more: nothing is hashed again."""
    places = places_of(model)
    below = {name: value for name, value in key["below"].items() if (places.get(name) or 0) < layer}
    return {**key, "layer": layer, "below": below}


def entry_bytes(model: TaskModel, store: TokenStore, layer: int, dtype: str) -> int:
    """Return how many bytes the tensors of an entry take."""
    shapes = _shapes(model, store, layer, dtype).values()
    return sum(int(np.prod(shape)) * kind.itemsize for shape, kind in shapes)


def _shapes(
    model: TaskModel, store: TokenStore, layer: int, dtype: str
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    backbone, kind = model.backbone, DTYPES[dtype]
    shapes: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    if layer <= backbone.num_layers:
        shapes["states"] = (len(store.ids), backbone.hidden_size), kind
        if dtype == "fp8":
            shapes["scales"] = (len(store.ids), 1), torch.float32
    if model.kind != "generation":
        precise = torch.bfloat16 if dtype == "fp8" else kind
        shapes["representatives"] = (len(store), layer - 1, backbone.hidden_size), precise
    return shapes


def build_entry(
    model: TaskModel,
    store: TokenStore,
    layer: int,
    dtype: str,
    cache: CacheStore | MemoryStore,
    key: Mapping[str, Any],
    autocast: Callable[[], Any],
    batch_of: BatchOf | None = None,
    cost_so_far: Mapping[str, float] | None = None,
) -> None:
    """Run the layers below `layer` over all examples, without dropout, and write what comes out as an entry.

    Args:
        model: on the device where it computes.
        store: the examples.
        layer: the first layer that is left to run.
        dtype: how states are stored.
        cache: receives the entry.
        key: names it.
        autocast: makes the context of the forward passes.
        batch_of: gathers batches that come with the states of still lower layers; None = of tokens alone.
        cost_so_far: seconds and CPU seconds that making those states took.

    Raises:
        ModelError: a state is not a finite number, and nothing could be trained on it.
    """
    with cache.writing(key, _shapes(model, store, layer, dtype)) as (tensors, facts), scoring_mode(model):
        for rows in sorted_batches(store.lengths, _BATCH):
            batch = (batch_of or store.batch)(rows).to(model.device)
            with autocast():
                states, vectors = run_below(model.backbone, batch, layer, "representatives" in tensors)
            if states is not None:
                real = states[batch.attention_mask.bool()]
                _refuse_not_finite(real, layer)
                _put_states(tensors, store, rows, real)
            if vectors is not None:
                _refuse_not_finite(vectors, layer)
                kept = tensors["representatives"]
                kept[torch.from_numpy(np.asarray(rows))] = vectors.to(kept.dtype).cpu()
        synchronize(model.device)
        facts["cost"] = cost_so_far


def _refuse_not_finite(states: Tensor, layer: int) -> None:
    if not states.isfinite().all():
        raise ModelError(
            f"states below layer {layer} are not finite (nan or inf): check the model's weights, or say "
            "train.precision=fp32."
        )


def _put_states(tensors: Mapping[str, Tensor], store: TokenStore, rows: np.ndarray, real: Tensor) -> None:
    """Store the states of a batch's real tokens, [tokens of the batch, H], at the places of their rows."""
    lengths = store.offsets[rows + 1] - store.offsets[rows]
    ends = np.cumsum(lengths)
    shift = np.repeat(store.offsets[rows] - (ends - lengths), lengths)
    where = torch.from_numpy(np.arange(ends[-1]) + shift)
    target = tensors["states"]
    if "scales" in tensors:
        scales = real.float().abs().amax(-1, keepdim=True).clamp_min(1e-12) / FP8_LARGEST
        tensors["scales"][where] = scales.cpu()
        codes = (real.float() / scales).to(target.dtype).view(torch.uint8)
        target.view(torch.uint8)[where] = codes.cpu()
    else:
        target[where] = real.to(target.dtype).cpu()


@dataclass(frozen=True)
class PrefixSource:
    """Gathers batches that come with the states of their lower layers.

    Attributes:
        store: tokens and labels.
        layer: the first layer that is left to run.
        tensors: states [tokens, H], scales, representatives [n, layer - 1, H].
        dtype: of the model's computation.
        device: of the model.
        place: device, memory or disk, with the reason.
    """

    store: TokenStore
    layer: int
    tensors: Mapping[str, Tensor]
    dtype: torch.dtype
    device: torch.device
    place: str

    def batch(self, rows: np.ndarray, multiple: int = 1) -> Batch:
        """Return the examples at these row numbers; padding has the state of the last real token, unread."""
        rows = np.asarray(rows, dtype=np.int64)
        batch = self.store.batch(rows, multiple)
        states = vectors = None
        if "states" in self.tensors:
            starts = self.store.offsets[rows][:, None]
            last = self.store.offsets[rows + 1][:, None] - 1
            width = batch.input_ids.shape[1]
            where = torch.from_numpy(np.minimum(starts + np.arange(width), last).ravel())
            states = self._gathered("states", where)
            if "scales" in self.tensors:
                states = states * self._gathered("scales", where)
            states = states.to(self.dtype).view(len(rows), width, -1)
        if "representatives" in self.tensors:
            vectors = self._gathered("representatives", torch.from_numpy(rows)).to(self.dtype)
        return replace(batch, lower=LowerLayers(self.layer, states, vectors))

    def _gathered(self, name: str, where: Tensor) -> Tensor:
        """Return rows of a tensor on the device; numbers in fp8 become fp32."""
        tensor = self.tensors[name]
        where = sent(where, tensor.device)
        if tensor.dtype == torch.float8_e4m3fn:  # gathered as bytes: not every device can index fp8
            codes = sent(tensor.view(torch.uint8).index_select(0, where), self.device)
            return codes.view(torch.float8_e4m3fn).float()
        return sent(tensor.index_select(0, where), self.device)


def open_source(
    entry: Entry,
    store: TokenStore,
    layer: int,
    dtype: torch.dtype,
    device: torch.device,
    place: str = "auto",
    not_kept: str | None = None,
) -> PrefixSource:
    """Put an entry where it is read fastest: on the device, in memory, or left on disk.

    In memory and on disk alike its files are mapped, so that processes share them. For memory all pages are
    read now, and no step waits for the disk; from disk the system reads what a batch asks for, when it does.

    Args:
        entry: as `CacheStore.find` returns it, its checksums tested.
        store: tokens and labels.
        layer: the first layer that is left to run.
        dtype: of the model's computation.
        device: of the model.
        place: `auto`, or `device`, `memory` or `disk` to insist.
        not_kept: why the entry could not be kept on disk and is in memory alone; None where it is on disk.
    """
    chosen, reason = (place, "asked for") if place != "auto" else choose_place(entry.num_bytes, device)
    if not_kept is not None and chosen != "device":
        chosen, reason = "memory", f"not kept on disk: {not_kept}"
    tensors = dict(entry.tensors)
    if chosen == "device":
        try:
            tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        except torch.OutOfMemoryError:
            if place == "device":
                raise
            chosen, reason = "memory", "there was less room on the device than it said"
    if chosen == "memory":
        for tensor in tensors.values():
            _read_in(tensor)
    log.info("prefix cache: %.3f GB, read from %s (%s)", entry.num_bytes / 1e9, chosen, reason)
    return PrefixSource(store, layer, tensors, dtype, device, f"{chosen} ({reason})")


def _read_in(tensor: Tensor) -> None:
    """Touch every page of a mapped tensor."""
    tensor.reshape(-1).view(torch.uint8)[:: mmap.PAGESIZE].sum()


def choose_place(num_bytes: int, device: torch.device) -> tuple[str, str]:
    """Return where a cache of this size is held, and why."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        if num_bytes <= free // _SHARE:
            return "device", f"{free / 1e9:.1f} GB are free there"
    free = _memory_available()
    if free is not None and num_bytes <= free // _SHARE:
        return "memory", f"{free / 1e9:.1f} GB are free there"
    return "disk", "larger than a quarter of the free memory"


def why_not_in_memory(num_bytes: int) -> str | None:
    """Say why a cache cannot be held in memory alone; None where it can, in up to half of what is free."""
    free = _memory_available()
    if free is None or num_bytes <= free // 2:
        return None
    return f"of {free / 1e9:.2f} GB of free memory it may take half"


def _memory_available() -> int | None:
    """Return how many bytes of memory can be had without swapping; None where the system does not say."""
    file = Path("/proc/meminfo")
    for line in file.read_text().splitlines() if file.is_file() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


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
