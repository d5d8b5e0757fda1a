"""A pretrained language model behind one interface: its layers, one representative vector each (§3.1).

The vectors are caught by hooks on the blocks while the model runs, so that a forward pass keeps [B, H] per
layer and never the [B, T, H] of every layer that `output_hidden_states` would hold.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn

from layertune.errors import ModelError
from layertune.models.architectures import Architecture, architecture_of, find_layers

if TYPE_CHECKING:
    from layertune.tasks import Batch

# Called once per layer, first to last: its number (1..L), the states entering and leaving it [B, T, H].
OnBlock = Callable[[int, Tensor, Tensor], None]


def device_of(model: nn.Module) -> torch.device:
    """Return where a model takes its inputs: at its first weight that has a place.

    Where accelerate keeps all weights elsewhere, it also moves the inputs to where they are used.
    """
    devices = [parameter.device for parameter in model.parameters()]
    moved = any(hasattr(module, "_hf_hook") for module in model.modules())
    return next((d for d in devices if d.type != "meta"), torch.device("cpu") if moved else devices[0])


def full_precision(states: Tensor) -> Tensor:
    """Return half-precision states as float32, others as they are: no statistic or loss is taken in bf16."""
    return states.float() if states.dtype in (torch.bfloat16, torch.float16) else states


def full_mask(mask: Tensor, sees: Literal["all", "before"]) -> Tensor:
    """Return what each token attends to, boolean: [B, T] -> [B, 1, T, T]; the library takes it as it is.

    Given the mask of the real tokens alone, the library reads it back from the device in every pass, to leave
    it out where there is no padding. On a CPU that is worth its while, and its kernels differ in their last
    digits: the mask is given on CUDA only.
    """
    real = mask.bool()[:, None, None].expand(-1, -1, mask.shape[1], -1)
    if sees == "all":
        return real
    before = torch.ones(mask.shape[1], mask.shape[1], dtype=torch.bool, device=mask.device)
    return real & before.tril()


class HandOn(nn.Module):
    """Stands where a block was: returns what it is given, or fixed states [B, T, H]."""

    def __init__(self, as_tuple: bool, states: Tensor | None = None) -> None:
        super().__init__()
        self.as_tuple = as_tuple
        self.states = states

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor | tuple[Tensor]:
        """Return states in the form of the architecture's blocks."""
        states = hidden_states if self.states is None else self.states
        return (states,) if self.as_tuple else states


class LastBlock(Protocol):
    """Stands where the last block was: hands its input on and keeps the representative vectors."""

    def vector(self, norm: nn.Module | None) -> Tensor:
        """Return the block's result at the representative tokens, [B, H], after a norm if one is given."""


class Backbone(nn.Module):
    """A model of transformers without its task head.

    Args:
        model: the headless model.
        representative: the token that stands for a sequence: `first` ([CLS], <s>) or the `last` real
            one; with `last`, padding must be on the right.
        last_layer: what counts as the state of layer L: `library` = the model's `last_hidden_state`
            (decoders: after the final norm), `raw` = the output of the last block. One thing for encoders.
        layers: dotted path of the block list, only where it is not found by structure.

    Raises:
        ModelError: the block list cannot be found.
    """

    def __init__(
        self,
        model: nn.Module,
        representative: Literal["first", "last"],
        last_layer: Literal["library", "raw"] = "library",
        layers: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.representative_token = representative
        self.last_layer = last_layer
        self.last_block: Callable[[Backbone, Tensor], LastBlock] | None = None  # another than its own
        self.layers_path = find_layers(model, layers)
        self.num_layers: int = model.config.num_hidden_layers
        self.hidden_size: int = model.config.hidden_size
        accepted = inspect.signature(model.forward).parameters
        # GPT-2 would look segment ids up among its words, and RoBERTa has one segment only.
        several = (getattr(model.config, "type_vocab_size", None) or 0) > 1 or self.architecture.segments
        self.takes_segments = "token_type_ids" in accepted and several
        self._constants: dict[str, Any] = {"use_cache": False} if "use_cache" in accepted else {}

    @property
    def architecture(self) -> Architecture:
        """What is known of the model's architecture, beyond what its structure says."""
        return architecture_of(self.model.config.model_type)

    @property
    def device(self) -> torch.device:
        """Where the model computes; weights that are kept elsewhere (accelerate) fetch their inputs."""
        return device_of(self)

    @property
    def layers(self) -> nn.ModuleList:
        """The blocks; `layers[l - 1]` is layer l. Looked up each time, so that a replaced block is seen."""
        return self.model.get_submodule(self.layers_path)

    def blocks_at(self, path: str) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Yield every block with its module at a path, first to last."""
        for block in self.layers:
            yield block, block.get_submodule(path)

    @property
    def commit(self) -> str | None:
        """The commit of the hub that the model was read from; None for a folder of one's own."""
        folder = Path(self.model.name_or_path)
        return folder.name if folder.parent.name == "snapshots" else None

    @property
    def sees(self) -> Literal["all", "before"] | None:
        """Which real tokens a token attends to in every layer; None where only the library's masks tell."""
        config = self.model.config
        plain = config._attn_implementation == "sdpa" and not getattr(config, "is_decoder", False)
        return self.architecture.sees if plain else None

    @property
    def final_norm(self) -> nn.Module | None:
        """The norm a decoder applies after its last block; None for encoders."""
        return getattr(self.model, self.architecture.final_norm or "", None)

    @property
    def pooler(self) -> nn.Module | None:
        """The pooler, if one was built: no forward pass here uses its output, so it gets no gradient."""
        return getattr(self.model, "pooler", None)

    @property
    def activation_checkpointing(self) -> bool:
        """Whether blocks recompute their activations in the backward pass, whoever asked for it."""
        current = hasattr(type(self.model), "is_activation_checkpointing")  # else an older transformers
        name = "is_activation_checkpointing" if current else "is_gradient_checkpointing"
        return bool(getattr(self.model, name, False))

    def enable_activation_checkpointing(self) -> None:
        """Recompute the blocks in the backward pass instead of keeping their activations.

        Transformers then makes the embedding output require a gradient, which would send the backward pass
        through all frozen layers; that is undone here.

        Raises:
            ModelError: the architecture cannot.
        """
        enable = getattr(self.model, "activation_checkpointing_enable", None)
        try:
            (enable or self.model.gradient_checkpointing_enable)()
        except ValueError as error:
            raise ModelError(f"train.activation_checkpointing=true does not work here: {error}") from error
        self.model.disable_input_require_grads()

    def representative(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Pick the representative token of each sequence: [B, T, H] and its mask [B, T] -> [B, H]."""
        return self.picker(mask)(hidden)

    def picker(self, mask: Tensor) -> Callable[[Tensor], Tensor]:
        """Return `representative` for one mask, its positions worked out once for all layers."""
        if self.representative_token == "first":
            return lambda hidden: hidden[:, 0]
        rows = torch.arange(mask.shape[0], device=mask.device)
        columns = mask.sum(1) - 1
        return lambda hidden: hidden[rows, columns]

    def forward(self, batch: Batch) -> Tensor:
        """Return the representative vectors of layers 1..L, [B, L, H]; differentiable."""
        kept: list[Tensor] = []
        pick = self.picker(batch.attention_mask)
        known = None if batch.lower is None else batch.lower.representatives
        if known is not None and known.shape[1] == self.num_layers:
            return known  # no layer is left
        last = None if self.last_block is None else self.last_block(self, batch.attention_mask)
        with self.replaced({} if last is None else {self.num_layers: last}):
            self.run(batch, lambda _, __, states: kept.append(full_precision(pick(states))))
        if last is not None:
            kept[-1] = full_precision(last.vector(self.final_norm if self.last_layer == "library" else None))
        vectors = torch.stack(kept, dim=1)
        return vectors if known is None else torch.cat([known.to(vectors.dtype), vectors], dim=1)

    @contextmanager
    def replaced(self, blocks: Mapping[int, Any]) -> Iterator[None]:
        """Put other modules in the place of some layers (1-based) for the length of a forward pass.

        The model's own forward runs, with its masks, rotations and norms as they are.
        """
        if not blocks:
            yield
            return
        own = self.layers
        parent, _, name = self.layers_path.rpartition(".")
        owner = self.model.get_submodule(parent)
        setattr(owner, name, nn.ModuleList(blocks.get(n, block) for n, block in enumerate(own, start=1)))
        try:
            yield
        finally:
            setattr(owner, name, own)

    def run(self, batch: Batch, on_block: OnBlock | None = None) -> Tensor:
        """Run the model; return its last hidden state [B, T, H]. `on_block` sees the states around every
        layer.

        What layer L leaves behind follows `last_layer`. Nothing that `on_block` does not keep outlives the
        call. Layers whose result comes with the batch are neither run nor reported.
        """
        first, known = 1, {}
        if batch.lower is not None:
            first = batch.lower.layer
            known = dict.fromkeys(range(1, first), HandOn(self.architecture.tuples, batch.lower.states))
        with self.replaced(known):
            if on_block is None:
                return _last_state(self.model(**self.inputs(batch)))
            shape = (*batch.input_ids.shape, self.hidden_size)
            with BlockHooks(self, on_block, first, shape) as hooks:
                last = _last_state(self.model(**self.inputs(batch)))
                hooks.finish(last)
            return last

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """Return the keyword arguments of the model for a batch."""
        mask = batch.attention_mask
        if mask.is_cuda and self.sees is not None:
            mask = full_mask(mask, self.sees)
        inputs = {"input_ids": batch.input_ids, "attention_mask": mask, **self._constants}
        if self.takes_segments and batch.segment_ids is not None:
            inputs["token_type_ids"] = batch.segment_ids
        return inputs


class BlockHooks:
    """Hooks on the blocks of a backbone for one forward pass: they show the states around every layer.

    A layer's state can be told where every layer runs once, in order, and leaves one state [B, T, H] behind.
    Architectures that pool, repeat, drop or project do not: they are known here by what they do, not by name.

    Args:
        backbone: its architecture says how the blocks hold their states.
        on_block: is told of every layer.
        first: the lowest layer that runs, counted from 1.
        shape: [B, T, H] of every state.
    """

    def __init__(
        self, backbone: Backbone, on_block: OnBlock, first: int, shape: tuple[int, int, int]
    ) -> None:
        self.backbone, self.on_block, self.first, self.shape = backbone, on_block, first, shape
        self.layers = backbone.layers
        # Some releases of transformers run the hooks of a recomputed block inside it. It must save the same
        # tensors when it runs again, without hooks: so nothing is picked before the pass is over.
        self.defer = backbone.training and backbone.activation_checkpointing
        self.numbers: list[int] = []  # of the layers that ran, in their order
        self.seen: list[tuple[int, Tensor, Tensor]] = []  # reported at the end
        self.handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> BlockHooks:
        for number, layer in list(enumerate(self.layers, start=1))[self.first - 1 :]:
            self.handles.append(layer.register_forward_hook(self._hook(number), with_kwargs=True))
        return self

    def _hook(self, number: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            states = output[0] if isinstance(output, (tuple, list)) else output  # DeBERTa: tuple, GPT: list
            after = self._state(states, f"layer {number} leaves")
            before = args[0] if args else kwargs.get("hidden_states")
            before = self._state(before, f"layer {number} is given").to(after.device)
            self.numbers.append(number)
            if self.defer or number == len(self.layers):
                self.seen.append((number, before, after))
            else:
                self.on_block(number, before, after)

        return hook

    def _state(self, state: Any, what: str) -> Tensor:
        known = self.backbone.architecture
        if isinstance(state, Tensor):
            state = state.transpose(0, 1) if known.time_first and state.ndim == 3 else state
            state = state[:, : self.shape[1]] if known.padded else state
            if state.shape == self.shape:
                return state
        found = list(state.shape) if isinstance(state, Tensor) else f"a {type(state).__name__}"
        raise ModelError(
            f"what {what} is {found} and not the states of the tokens, {list(self.shape)}: the layers of "
            "this architecture cannot be compared with each other."
        )

    def finish(self, last_hidden_state: Tensor) -> None:
        """Report what is left, after the pass.

        Raises:
            ModelError: a layer did not run, or ran more than once, or the model's last state is another
                thing than the states of its layers.
        """
        wanted = range(self.first, len(self.layers) + 1)
        if self.numbers != list(wanted):
            odd = next((n for n in wanted if self.numbers.count(n) != 1), wanted[0])
            times = self.numbers.count(odd)
            raise ModelError(
                f"layer {odd} of {len(self.layers)} ran {times} times in one forward pass, or out of order: "
                "a model that drops (layerdrop), repeats or shares layers has no one state per layer."
            )
        for number, before, after in self.seen:
            if number == len(self.layers) and self.backbone.last_layer != "raw":
                if last_hidden_state.shape != self.shape:
                    raise ModelError(
                        f"the model's last state is {list(last_hidden_state.shape)} and those of its layers "
                        f"are {list(self.shape)} (a projection behind the last layer): take that layer's own "
                        "output (last_layer=raw)."
                    )
                after = last_hidden_state
            self.on_block(number, before, after)

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()
        self.seen.clear()


def _last_state(output: Any) -> Tensor:
    """Return a model's last hidden state, from its outputs by name or in a tuple (`return_dict=False`)."""
    return output[0] if isinstance(output, tuple) else output.last_hidden_state


@contextmanager
def scoring_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for the length of a scoring pass; every module returns to the mode it had."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
