"""Generation: one output per meaning representation by beam search, and how the references fit the model.

Choice: [E2E, decoding] the paper says nothing; as in the released code 10 beams, length penalty 0.8, early
stopping, at most 64 new tokens.
Outputs are kept as JSON lines (`mr`, `hypothesis`, `references`) in the scratch folder, so that they can be
scored again without the model:

    python scripts/score_e2e.py --predictions outputs/predictions/<run_id>-test-epoch5.jsonl
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from layertune.config import DecodingSpec, RunConfig
from layertune.config.files import write_atomic
from layertune.evaluation.nlg.text import clean
from layertune.models.backbone import scoring_mode
from layertune.tasks import Meanings, Split, TokenStore, sorted_batches

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from layertune.runtime import Runtime

log = logging.getLogger(__name__)

FORCED_ROWS = 16  # references per forward pass: the logits of their tokens take most of the memory


@torch.no_grad()
def generate(
    model: TaskModel, split: Split, tokenizer: Any, decoding: DecodingSpec, runtime: Runtime
) -> list[str]:
    """Return one clean line of text per meaning representation of a split, in their order.

    Prompts of like length share a batch, padded on the left; positions follow from the mask, so that a prompt
    gets the output that it gets alone.
    """
    meanings, store = _meanings(split), split.store
    assert store.prompts is not None
    lengths = np.asarray(store.prompts)[meanings.rows]
    ends = end_tokens(tokenizer, decoding)
    settings = _settings(decoding, ends, store.pad_id)
    texts = [""] * len(meanings)
    bar = tqdm(
        total=len(meanings),
        desc=f"outputs, {split.name}",
        unit="mr",
        disable=not sys.stderr.isatty(),
        leave=False,
    )
    with scoring_mode(model), _without_own_settings(model.causal_lm) as language_model, bar:
        for chosen in sorted_batches(lengths, decoding.batch_size):
            ids, mask = left_padded(store, meanings.rows[chosen])
            with runtime.autocast():
                found = language_model.generate(
                    input_ids=ids.to(runtime.device),
                    attention_mask=mask.to(runtime.device),
                    generation_config=settings,
                    logits_processor=_processors(decoding, ids.shape[1]),
                )
            for index, tokens in zip(chosen, found[:, ids.shape[1] :].tolist(), strict=True):
                until = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
                texts[index] = clean(tokenizer.decode(tokens[:until], skip_special_tokens=True))
            bar.update(len(chosen))
    return texts


def left_padded(store: TokenStore, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Return the prompts of some rows, padded on the left, and their mask: both [B, T] int64."""
    assert store.prompts is not None
    lengths = np.asarray(store.prompts)[rows].astype(np.int64)
    columns = np.arange(int(lengths.max())) - (lengths.max() - lengths)[:, None]  # negative in the padding
    mask = columns >= 0
    places = np.where(mask, store.offsets[rows][:, None] + columns, 0)
    ids = np.where(mask, store.ids[places], store.pad_id).astype(np.int64)
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def end_tokens(tokenizer: Any, decoding: DecodingSpec) -> list[int]:
    """Return the tokens that end an output: end of sequence, and `decoding.stop` where it is one token."""
    ends = [int(tokenizer.eos_token_id)]
    if decoding.stop:
        stop = tokenizer.encode(decoding.stop, add_special_tokens=False)
        if len(stop) == 1:
            ends += stop
        else:
            log.warning(
                "task.decoding.stop=%r has no effect: it is %d tokens here, not one", decoding.stop, len(stop)
            )
    return ends


def _settings(decoding: DecodingSpec, ends: list[int], pad: int) -> Any:
    from transformers import GenerationConfig

    beams = {"length_penalty": decoding.length_penalty, "early_stopping": True}
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        num_beams=decoding.num_beams,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=pad,
        **(beams if decoding.num_beams > 1 else {}),
    )


class NoRepeat:
    """Forbid every phrase of `size` tokens that the output holds already.

    Choice: [`task.decoding.no_repeat_ngram`] phrases of the prompt may come again, as in LoRA's own decoding;
    the library's option forbids them too, and the values of a representation could then not be named.
    """

    def __init__(self, size: int, prompt: int) -> None:
        from transformers import NoRepeatNGramLogitsProcessor

        self.rule = NoRepeatNGramLogitsProcessor(size)
        self.prompt = prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores [B, V] of the next token, minus infinity where it is forbidden."""
        return self.rule(input_ids[:, self.prompt :], scores)


def _processors(decoding: DecodingSpec, prompt: int) -> list[NoRepeat]:
    return [NoRepeat(decoding.no_repeat_ngram, prompt)] if decoding.no_repeat_ngram else []


@contextmanager
def _without_own_settings(language_model: Any) -> Iterator[Any]:
    """Keep what a checkpoint says about sampling, penalties and the like out of the search."""
    from transformers import GenerationConfig

    own = language_model.generation_config
    language_model.generation_config = GenerationConfig()
    try:
        yield language_model
    finally:
        language_model.generation_config = own


def _meanings(split: Split) -> Meanings:
    assert split.meanings is not None, f"{split.name} is no split of a generation task"
    return split.meanings


@torch.no_grad()
def forced_scores(
    model: TaskModel, split: Split, runtime: Runtime, batch_size: int
) -> dict[str, float | str | None]:
    """Return how well the model continues the references, each token given the true ones before it.

    `loss` is the mean over the tokens of all references, without label smoothing; `perplexity` its
    exponential; `token_accuracy` the share of tokens that were the likeliest.
    """
    loss = right = torch.zeros((), dtype=torch.float64, device=runtime.device)
    count = 0
    with scoring_mode(model):
        for indices in sorted_batches(split.store.lengths, min(batch_size, FORCED_ROWS)):
            batch = split.store.batch(indices).to(runtime.device)
            with runtime.autocast():
                logits, tokens = model.next_token_logits(batch)
            loss = loss + F.cross_entropy(logits, tokens, reduction="sum").double()
            right = right + (logits.argmax(-1) == tokens).sum()
            count += len(tokens)
    mean = float(loss) / count
    perplexity = math.exp(mean) if mean < 700 else math.inf
    return {"loss": mean, "perplexity": perplexity, "token_accuracy": float(right) / count}


def score_outputs(
    outputs: Sequence[str], split: Split, secondary: bool = False
) -> dict[str, float | str | None]:
    """Return the official metrics of one output per representation; with `secondary` the released code's too.

    Where METEOR cannot run it is None, and `meteor_reason` says why. NIST and CIDEr depend on the set that is
    scored: those of a subset compare with nothing but the same subset.
    """
    from layertune.evaluation import nlg

    references = _meanings(split).references
    scores: dict[str, float | str | None] = dict(nlg.score(outputs, references))
    if secondary:
        scores |= nlg.secondary(outputs, references)
    return scores


def predictions_path(run: RunConfig, split: Split, epoch: int) -> Path:
    """Return where the outputs of a run are kept: the scratch folder, because they hold texts of the data."""
    return Path(run.outputs_dir) / "predictions" / f"{run.run_id}-{split.split}-epoch{epoch}.jsonl"


def save_predictions(path: Path, split: Split, outputs: Sequence[str]) -> Path:
    """Write one JSON line per meaning representation, whole or not at all."""
    meanings = _meanings(split)
    rows = zip(meanings.texts, outputs, meanings.references, strict=True)
    lines = [
        json.dumps({"mr": mr, "hypothesis": text, "references": references}, ensure_ascii=False) + "\n"
        for mr, text, references in rows
    ]
    log.info("outputs: %s", path)
    return write_atomic(path, "".join(lines).encode())
