"""The backward pass ends at the lowest trained layer: for every method, step by step."""

from __future__ import annotations

import weakref
from itertools import product

import pytest
import torch
from tiny_runs import whole_but

from layertune.config.groups import group_file, group_names
from layertune.models.parameters import places_of
from layertune.training import train
from layertune.training.proof import Witness


def one_of_each_kind() -> list[str]:
    """Return the methods without those that differ from `top_k` in the choice of layers alone."""
    files = {name: group_file("method", name) or {} for name in group_names("method")}
    of_choice = ("selected", "layers")
    return [
        name for name, file in files.items() if file["kind"] not in of_choice or name in ("top_k", "elsa")
    ]


class Depth:
    """Notes, while a step is taken, which layers' outputs require a gradient and which ought to.

    Attributes:
        found: (lowest trained layer, number of the layer) -> whether its output required a gradient; the
            lowest is 0 for embeddings and 9 where only the head trains.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: dict[tuple[int, int], set[bool]] = {}
        self.lowest: int | None = None
        self.hooked: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()
        before, after = Witness.before_step, Witness.after_backward

        def before_step(witness: Witness, moves: bool) -> None:
            before(witness, moves)
            places = places_of(witness.model)
            trained = [places[name] for name, p in witness.model.named_parameters() if p.requires_grad]
            self.lowest = min((place for place in trained if place is not None), default=9)
            self.watch(witness.model)

        def after_backward(witness: Witness) -> None:
            after(witness)
            self.lowest = None

        monkeypatch.setattr(Witness, "before_step", before_step)
        monkeypatch.setattr(Witness, "after_backward", after_backward)

    def watch(self, model: torch.nn.Module) -> None:
        if model in self.hooked:
            return
        self.hooked.add(model)
        blocks = [model.backbone.model.get_input_embeddings(), *model.backbone.layers]
        for number, block in enumerate(blocks):
            block.register_forward_hook(lambda *args, number=number: self.note(number, args[-1]))

    def judge(self) -> None:
        """Fail where a layer's output requires a gradient and ought not to, or the other way round."""
        for (lowest, number), required in self.found.items():
            if number < lowest:
                assert required == {False}, f"layer {number} below {lowest}"
            elif number > 0:  # of the embeddings another than that of the words may train
                assert required == {True}, f"layer {number} from {lowest} on"

    def note(self, number: int, output: object) -> None:
        if self.lowest is not None and torch.is_grad_enabled():
            states = output[0] if isinstance(output, tuple) else output
            self.found.setdefault((self.lowest, number), set()).add(states.requires_grad)


def options_of(method: str) -> tuple[str, ...]:
    options = ("method.k=2",) if (group_file("method", method) or {}).get("selector") else ()
    return options + (("method.every=1", "method.freeze_embeddings=true") if method == "lisa" else ())


@pytest.mark.parametrize(
    ("method", "model", "checkpointing"),
    whole_but(  # each checkpointed on one of the models
        ((row + column + (checkpointing == "true")) % 2 == 0, (method, model, checkpointing))
        for (row, method), (column, model), checkpointing in product(
            enumerate(one_of_each_kind()), enumerate(["tiny_bert", "tiny_gpt2"]), ["false", "true"]
        )
    ),
)
def test_no_activation_below_the_lowest_trained_layer_requires_a_gradient(
    prepared, monkeypatch, method, model, checkpointing
):
    case = prepared(
        f"model={model}",
        f"method={method}",
        f"train.activation_checkpointing={checkpointing}",
        *options_of(method),
    )
    depth = Depth(monkeypatch)
    train(*case.parts)
    assert {number for _, number in depth.found} == {0, 1, 2, 3, 4}
    depth.judge()


@pytest.mark.parametrize("model", ["tiny_bert", "tiny_gpt2"])
@pytest.mark.parametrize("method", one_of_each_kind())
def test_under_fast_what_lies_below_is_not_run_or_requires_no_gradient(prepared, monkeypatch, method, model):
    case = prepared("train=fast", f"model={model}", f"method={method}", *options_of(method))
    depth = Depth(monkeypatch)
    cached = train(*case.parts).cache.layer
    ran = {number for _, number in depth.found} - {0, 4}  # the last may run by parts, for one token
    assert ran == set(range(cached or 1, 4))
    depth.judge()


def test_the_test_sees_a_gradient_that_sneaks_in(prepared, monkeypatch):
    case = prepared("method=top_k", "method.k=2")
    case.model.backbone.model.get_input_embeddings().register_forward_hook(
        lambda *args: args[-1].requires_grad_(True)  # as transformers does for peft under checkpointing
    )
    depth = Depth(monkeypatch)
    train(*case.parts)
    assert depth.found[3, 1] == {True}
