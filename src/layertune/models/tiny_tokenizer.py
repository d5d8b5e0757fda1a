"""Tokenizers for the tiny random models, built in code: deterministic, and nothing is downloaded.

A short list of everyday words keeps sequences about as short as those of a real tokenizer; every other word
falls apart into characters (tiny BERT) or bytes (tiny GPT-2), so nothing is lost.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_WORDS = (
    "the of and to in is that for it was with as be on this by are at have from or not but what all were "
    "when we there can an your which their if do will each about how up out them then she many some so "
    "these would other into has more her two like him see time could no make than first been its who now "
    "people my made over did down only way find use may long little very after just where most know get "
    "through back much before go good new our want also around bad great best film movie story acting "
    "plot funny dull boring name food price area near city centre place family friendly customer rating "
    "high low average cheap moderate restaurant coffee shop pub type eat range river side yes serves "
    "located called"
)


def tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a tiny random encoder ([CLS] a [SEP] b [SEP]) or decoder (eos, no pad)."""
    return _bert() if family == "encoder" else _gpt2()


def _bert() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    characters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = [*special, *characters, *("##" + c for c in characters), *_WORDS.split()]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _gpt2() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in _WORDS.split():
        spelled = "Ġ" + word  # how byte-level tokenizers write a word after a space
        for end in range(1, len(spelled)):
            merges[spelled[:end], spelled[end]] = None
    pieces += [left + right for left, right in merges]
    vocab = {piece: index for index, piece in enumerate([*dict.fromkeys(pieces), "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocab, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", bos_token="<|endoftext|>"
    )
