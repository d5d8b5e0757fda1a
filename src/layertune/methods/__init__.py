"""All methods by name. A method acts through its hooks; none has a loop of its own."""

from layertune.config import RunConfig
from layertune.config.names import resolve_name
from layertune.errors import ConfigError
from layertune.methods.adapters import Adapters
from layertune.methods.base import (
    Full,
    HeadOnly,
    Method,
    Phase,
    Preparation,
    count,
    head_parts,
    moves,
    optimised,
    train_only,
)
from layertune.methods.lift import Lift
from layertune.methods.lisa import Lisa
from layertune.methods.peft import Ia3, Lora
from layertune.methods.prefix import PrefixTuning
from layertune.methods.recap import Recap
from layertune.methods.selected import NamedLayers, SelectedLayers
from layertune.methods.slimfit import SlimFit

METHODS: dict[str, type[Method]] = {
    "full": Full,
    "head_only": HeadOnly,
    "selected": SelectedLayers,
    "layers": NamedLayers,
    "lora": Lora,
    "adapters": Adapters,
    "prefix": PrefixTuning,
    "ia3": Ia3,
    "lift": Lift,
    "slimfit": SlimFit,
    "recap": Recap,
    "lisa": Lisa,
}


def build_method(run: RunConfig) -> Method:
    """Return the method of a run.

    Raises:
        ConfigError: `method.kind` is neither a known name nor a dotted path to a method.
    """
    kind = resolve_name(run.method.kind, METHODS, "method.kind")
    if not (isinstance(kind, type) and issubclass(kind, Method)):
        raise ConfigError(f"method.kind={run.method.kind} is no Method (layertune.methods.Method).")
    return kind(run)


__all__ = [
    "METHODS",
    "Method",
    "Phase",
    "Preparation",
    "build_method",
    "count",
    "head_parts",
    "moves",
    "optimised",
    "train_only",
]
