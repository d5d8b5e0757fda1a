"""Small word-level tokenizers, an encoder's and a decoder's, built in memory."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import DebertaTokenizer, PreTrainedTokenizerFast

WORDS = list("abcdefghijklmnop")


def make_encoder() -> PreTrainedTokenizerFast:
    """[PAD]=0 [UNK]=1 [CLS]=2 [SEP]=3, then a=4, b=5, ..."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def make_decoder(eos: bool = True) -> PreTrainedTokenizerFast:
    """<eos>=0 <unk>=1, then a=2, b=3, ...; nothing is added around a text and there is no pad token."""
    vocabulary = {word: i for i, word in enumerate(["<eos>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    special = {"eos_token": "<eos>"} if eos else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", **special)


@pytest.fixture
def encoder_tokenizer() -> PreTrainedTokenizerFast:
    return make_encoder()


@pytest.fixture
def decoder_tokenizer() -> PreTrainedTokenizerFast:
    return make_decoder()


@pytest.fixture
def tokenizer_without_end() -> PreTrainedTokenizerFast:
    return make_decoder(eos=False)


@pytest.fixture
def deberta_tokenizer() -> DebertaTokenizer:
    """DeBERTa's (v1): bytes and merges of GPT-2, special tokens of BERT; a=5 b=6 " b"=8."""
    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "a", "b", "\u0120", "\u0120b"]
    vocabulary = {word: i for i, word in enumerate(words)}
    return DebertaTokenizer(vocab=vocabulary, merges=[("\u0120", "b")])
