"""LoRA and (IA)³ through the `peft` library (§4.4; Tables 1-4, 6, 10).

`peft` wraps the linear maps of the blocks in place; no `PeftModel` stands around the backbone, so that the
head, the names of all else and the language model of a generation task stay as they are. Where query, key
and value are one fused map, `layertune.methods.fused` takes its place. The library is imported only when one
of these methods runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from layertune.config import RunConfig
from layertune.config.schema import Count, Norm, Share
from layertune.methods.added import AddedParameters
from layertune.methods.fused import FusedGains, FusedLayout, FusedLora, FusedModule
from layertune.models.architectures import Sites

if TYPE_CHECKING:
    from peft import PeftConfig

    from layertune.models import Backbone


class Lora(AddedParameters):
    """LoRA on query and value of every layer: Wx + (alpha / r)·B·A·dropout(x) (§4.4, §7.6).

    Choice: [LoRA] dropout 0.1 on the input of A, as in the GPT-2 example of the source.
    """

    def __init__(self, run: RunConfig) -> None:
        super().__init__(run)
        self.r: int = self.value("r", Count)
        alpha = self.option("alpha", Norm)
        self.alpha: float = 2 * self.r if alpha is None else alpha  # Paper: §7.6, α = 2r
        self.dropout: float = self.value("dropout", Share)

    def insert(self, backbone: Backbone, sites: Sites) -> dict[str, Any]:
        """Give query and value their low-rank updates."""
        if sites.fused is not None:
            layout = _layout(backbone, sites)
            for _, projection in backbone.blocks_at(sites.query):
                parts = ("query", "value")
                FusedLora(layout, projection, parts, self.r, self.alpha, self.dropout).attach(projection)
        else:
            _inject(self.peft_config(backbone), backbone)
        return {}

    def peft_config(self, backbone: Backbone) -> PeftConfig | None:
        """Return the library's configuration; None where query, key and value are one map."""
        sites = self.check_architecture(backbone.model.config.model_type)
        if sites.fused is not None:
            return None
        from peft import LoraConfig

        return LoraConfig(
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=_pattern(backbone, sites.query, sites.value),
        )


class Ia3(AddedParameters):
    """(IA)³: gains, one at first, on keys, values and the inner activation of the feed-forward network.

    `targets: original` is the source's form (55,296 numbers on BERT-base). `all` is what the `peft` library
    scales by default (64,512): on BERT also the input of the attention's output projection, on GPT-2 the
    queries too. Choice: [(IA)³] the source's form; ELECTRA and MPNet, for which the library has no default,
    are treated like BERT.
    """

    def __init__(self, run: RunConfig) -> None:
        super().__init__(run)
        self.one_of("targets", ("original", "all"))

    def insert(self, backbone: Backbone, sites: Sites) -> dict[str, Any]:
        """Give keys, values and inner activations their gains."""
        if sites.fused is not None and self.options["targets"] == "original":
            layout = _layout(backbone, sites)
            for block, projection in backbone.blocks_at(sites.key):
                late = getattr(block.get_submodule(sites.attention), "v_bias", None)  # DeBERTa v1
                biases = {} if late is None else {"value": late}
                FusedGains(layout, projection, ("key", "value"), biases).attach(projection)
        _inject(self._of_whole_maps(backbone, sites), backbone)
        return {}

    def peft_config(self, backbone: Backbone) -> PeftConfig | None:
        """Return the library's configuration; None where it covers a part of the gains alone."""
        sites = self.check_architecture(backbone.model.config.model_type)
        if sites.fused is not None and self.options["targets"] == "original":
            return None
        return self._of_whole_maps(backbone, sites)

    def _of_whole_maps(self, backbone: Backbone, sites: Sites) -> PeftConfig:
        """Return the library's configuration of all gains but those of a part of a fused map."""
        from peft import IA3Config

        output = backbone.layers[0].get_submodule(sites.ffn_out)
        transposed = not isinstance(getattr(output, "base_layer", output), nn.Linear)  # GPT-2
        if self.options["targets"] == "all":
            return IA3Config(fan_in_fan_out=transposed, **_library_targets(backbone, sites))
        outputs = [] if sites.fused else [sites.key, sites.value]
        return IA3Config(
            target_modules=_pattern(backbone, *outputs, sites.ffn_out),
            feedforward_modules=_pattern(backbone, sites.ffn_out),
            fan_in_fan_out=transposed,
        )


def _library_targets(backbone: Backbone, sites: Sites) -> dict[str, str]:
    """Return the options of `IA3Config` that stand in for a default the library lacks; else none."""
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as DEFAULTS

    if backbone.model.config.model_type in DEFAULTS:
        return {}
    inputs = (sites.attention_out, sites.ffn_out)
    return {
        "target_modules": _pattern(backbone, sites.key, sites.value, *inputs),
        "feedforward_modules": _pattern(backbone, *inputs),
    }


def _inject(config: PeftConfig | None, backbone: Backbone) -> None:
    from peft import inject_adapter_in_model

    inject_adapter_in_model(config, backbone.model)


def _pattern(backbone: Backbone, *paths: str) -> str:
    """Return a regular expression for these paths in every block, and for nothing else.

    A plain suffix such as `output.dense` would also catch `attention.output.dense`.
    """
    inside = "|".join(re.escape(path) for path in paths)
    return rf"{re.escape(backbone.layers_path)}\.\d+\.({inside})"


def _layout(backbone: Backbone, sites: Sites) -> FusedLayout:
    return FusedLayout({"thirds": 1, "per_head": backbone.model.config.num_attention_heads}[sites.fused])


@contextmanager
def merged(model: nn.Module) -> Iterator[nn.Module]:
    """Fold all low-rank updates and gains into the weights for the length of the block.

    For inference: the model is then as fast as the pretrained one. Afterwards the weights are bit for bit
    what they were.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    fused = [
        (module, child)
        for module in model.modules()
        for child in module.children()
        if isinstance(child, FusedModule)
    ]
    folded_into = [p for module in wrapped for p in module.get_base_layer().parameters()]
    folded_into += [p for projection, child in fused for p in child.folded_into(projection)]
    kept = [(parameter, parameter.data) for parameter in dict.fromkeys(folded_into)]
    try:
        for parameter, values in kept:
            parameter.data = values.clone()
        for module in wrapped:
            module.merge()
        for projection, child in fused:
            child.fold(projection)
            child.folded = True
        yield model
    finally:
        for parameter, values in kept:
            parameter.data = values
        for module in wrapped:
            module.merged_adapters.clear()
        for _, child in fused:
            child.folded = False
