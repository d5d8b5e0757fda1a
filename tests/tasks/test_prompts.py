"""Meaning representations and references as tokens, worked out by hand on the tiny byte-level tokenizer.

A GPT-2 tokenizer is not among the test's inputs; the tiny one splits text by the same rule, so that a space
before an end-of-sequence token is a token of its own there as well.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from layertune.config import DecodingSpec, TaskSpec
from layertune.errors import DataError
from layertune.models.tiny_tokenizer import tiny_tokenizer
from layertune.tasks.encode import IGNORED_LABEL
from layertune.tasks.prompts import encode_generation, prompt_text
from layertune.tasks.rows import unlabelled
from layertune.tasks.token_cache import encode_cached, token_key

MR = "name[Zizzi], eatType[pub], priceRange[more than £30], familyFriendly[yes], customer rating[5 out of 5]"
COLUMNS = ("meaning_representation", "human_reference")


@pytest.fixture
def tokenizer():
    found = tiny_tokenizer("decoder")
    found.pad_token = found.eos_token  # as `load_tokenizer` leaves it: padding has the id of the end
    return found


def spec(**values):
    return TaskSpec(name="e2e", kind="generation", columns=COLUMNS, **{"max_length": 128, **values})


def tokens(store, tokenizer, row=0):
    ids = store.ids[store.offsets[row] : store.offsets[row + 1]]
    return tokenizer.convert_ids_to_tokens(ids.tolist())


def test_the_format_of_the_released_code(tokenizer):
    store = encode_generation(unlabelled((["name[it]"], ["the pub"])), tokenizer, spec())
    name, pub = list("name"), [*list("the"), "Ġpub"]  # without a space before it, a word is its letters
    end = "<|endoftext|>"
    assert tokens(store, tokenizer) == [*name, "[", "i", "t", "]", "Ġ", end, *pub, "Ġ", end]
    assert store.prompts.tolist() == [4 + 4 + 2]
    assert store.truncated == 0


def test_the_format_of_lora(tokenizer):
    rows = unlabelled((["name[the pub], eatType[bar]"], ["the pub"]))
    store = encode_generation(rows, tokenizer, spec(format="lora"))
    whole = "".join(tokens(store, tokenizer)).replace("Ġ", " ")
    assert whole == "name : the pub | Type : bar<|endoftext|> the pub<|endoftext|>"
    assert tokens(store, tokenizer)[-3:] == ["Ġthe", "Ġpub", "<|endoftext|>"]


def test_lora_renames_slots_and_keeps_their_order_and_values():
    assert prompt_text(MR, "lora") == (
        "name : Zizzi | Type : pub | price : more than £30 | family friendly : yes | "
        "customer rating : 5 out of 5"
    )
    assert prompt_text(MR, "code") == f"{MR} "
    with pytest.raises(DataError, match="'Zizzi' is no list of slots"):
        prompt_text("Zizzi", "lora")


def test_the_reference_and_its_end_are_learnt_and_padding_of_the_same_id_is_not(tokenizer):
    rows = unlabelled((["name[it]", "name[it]"], ["a", "the pub"]))
    store = encode_generation(rows, tokenizer, spec())
    batch = store.batch(np.array([0, 1]))
    end = tokenizer.eos_token_id
    a, space, the = tokenizer.convert_tokens_to_ids(["a", "Ġ", "t"])
    assert batch.input_ids.shape == (2, 16) and store.pad_id == end
    assert batch.labels[0].tolist() == [IGNORED_LABEL] * 10 + [a, space, end] + [IGNORED_LABEL] * 3
    assert batch.input_ids[0, 9:].tolist() == [end, a, space, end, end, end, end]
    assert batch.labels[1, :11].tolist() == [IGNORED_LABEL] * 10 + [the]
    assert batch.labels[1, 15].item() == end and batch.attention_mask[1].sum() == 16
    assert batch.targets.tolist() == [10, 11, 12, *range(16 + 10, 16 + 16)]
    moved = batch.to("meta")
    assert moved.targets.device.type == moved.labels.device.type == "meta"


def test_a_tokenizer_with_a_beginning_puts_it_in_front_once(tokenizer):
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.bos_token_id)]
    )
    store = encode_generation(unlabelled((["name[it]"], ["a"])), tokenizer, spec())
    end = "<|endoftext|>"
    assert tokens(store, tokenizer) == [end, *"name[it]", "Ġ", end, "a", "Ġ", end]
    assert store.prompts.tolist() == [11]


def test_long_rows_are_cut_at_the_right_and_always_leave_a_token_to_learn(tokenizer):
    rows = unlabelled((["name[it]", "name[the long one]", "name[it]"], ["a the pub", "a", "a"]))
    store = encode_generation(rows, tokenizer, spec(max_length=13))
    end = "<|endoftext|>"
    assert tokens(store, tokenizer) == [*"name[it]", "Ġ", end, "a", "Ġthe", "Ġpub"]
    assert tokens(store, tokenizer, 1)[-2:] == [end, "a"] and store.lengths[1] == 13
    assert store.prompts.tolist() == [10, 12, 10]
    assert store.truncated == 2  # the third fits exactly


def test_without_references_only_the_prompts_are_left(tokenizer):
    rows = unlabelled((["name[it]", "name[pub]"], ["the pub", "a"]))
    store = encode_generation(rows, tokenizer, spec())
    cut = store.without_references()
    assert cut.lengths.tolist() == store.prompts.tolist() == [10, 11]
    for row in (0, 1):
        assert tokens(cut, tokenizer, row) == tokens(store, tokenizer, row)[: store.prompts[row]]
        assert tokens(cut, tokenizer, row)[-1] == "<|endoftext|>"
    batch = cut.batch(np.array([1, 0]))
    assert (batch.labels == IGNORED_LABEL).all() and len(batch.targets) == 0


def test_the_cache_keeps_where_references_begin_and_tells_formats_apart(tokenizer, tmp_path, monkeypatch):
    rows = unlabelled((["name[it]", "name[pub]"], ["the pub", "a"]))
    first = encode_cached(rows, "rows", tokenizer, "t", spec(), tmp_path)
    monkeypatch.setattr("layertune.tasks.token_cache.encode_generation", None)
    again = encode_cached(rows, "rows", tokenizer, "t", spec(), tmp_path)
    assert again.prompts.tolist() == first.prompts.tolist() == [10, 11]
    assert token_key("rows", "t", spec()) != token_key("rows", "t", spec(format="lora"))
    beams = dataclasses.replace(spec(), decoding=DecodingSpec(num_beams=2))
    assert token_key("rows", "t", spec()) == token_key("rows", "t", beams)


def test_a_tokenizer_without_an_end_is_refused(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(DataError, match="needs a tokenizer with an end-of-sequence token"):
        encode_generation(unlabelled((["name[it]"], ["a"])), tokenizer, spec())
