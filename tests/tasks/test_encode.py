"""Rows to token ids, worked out by hand on word-level tokenizers."""

from __future__ import annotations

import logging
import shutil
import time

import numpy as np
import pytest
import torch
from processes import FORK, at_once

from layertune.cache_store import CacheStore
from layertune.config import TaskSpec
from layertune.errors import DataError
from layertune.tasks.encode import TokenStore, encode
from layertune.tasks.rows import Rows
from layertune.tasks.token_cache import encode_cached, token_key

PAIR = ("sentence1", "sentence2")


def rows(*columns: list[str], labels: list[int] | None = None) -> Rows:
    count = len(columns[0])
    return Rows(columns, np.array(labels or [0] * count, dtype=np.int64))


def spec(**values) -> TaskSpec:
    return TaskSpec(name="toy", labels=("no", "yes"), **values)


def example(store: TokenStore, i: int) -> list[int]:
    return store.ids[store.offsets[i] : store.offsets[i + 1]].tolist()


def test_a_sentence_becomes_cls_words_sep(encoder_tokenizer):
    store = encode(rows(["a b", "c"]), encoder_tokenizer, spec())
    assert example(store, 0) == [2, 4, 5, 3]
    assert example(store, 1) == [2, 6, 3]
    assert store.lengths.tolist() == [4, 3]
    assert store.ids.dtype == np.int32
    assert len(store) == 2


def test_a_pair_on_an_encoder_gets_both_separators(encoder_tokenizer):
    store = encode(rows(["a"], ["b c"]), encoder_tokenizer, spec(columns=PAIR))
    assert example(store, 0) == [2, 4, 3, 5, 6, 3]


def test_a_pair_on_deberta_has_one_separator_in_between_and_segments(deberta_tokenizer):
    given = deberta_tokenizer.backend_tokenizer.post_processor.__getstate__()
    texts = rows(["a b", "b"], ["b", "a b b"])
    store = encode(texts, deberta_tokenizer, spec(columns=PAIR, segment_ids="standard", max_length=7))
    # [CLS]=1 [SEP]=2 a=5 b=6 " b"=8; of the second pair the longer text loses its last word
    assert [example(store, 0), example(store, 1)] == [[1, 5, 8, 2, 6, 2], [1, 6, 2, 5, 8, 8, 2]]
    assert store.segments.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    assert example(encode(rows(["a b"]), deberta_tokenizer, spec()), 0) == [1, 5, 8, 2]
    assert deberta_tokenizer.backend_tokenizer.post_processor.__getstate__() == given


def test_a_pair_on_a_decoder_is_one_text_with_a_line_break(decoder_tokenizer):
    seen = []
    original = decoder_tokenizer._encode_plus
    decoder_tokenizer._encode_plus = lambda text, **k: (seen.append(text), original(text, **k))[1]
    store = encode(rows(["a b"], ["c"]), decoder_tokenizer, spec(columns=PAIR))
    assert seen == [["a b\nc"]]
    assert example(store, 0) == [2, 3, 4]


def test_segments_are_kept_only_when_asked_for(encoder_tokenizer):
    data = rows(["a"], ["b c"])
    assert encode(data, encoder_tokenizer, spec(columns=PAIR)).segments is None
    standard = encode(data, encoder_tokenizer, spec(columns=PAIR, segment_ids="standard"))
    assert standard.segments.tolist() == [0, 0, 0, 1, 1, 1]
    assert standard.batch(np.array([0]), 8).segment_ids.tolist() == [[0, 0, 0, 1, 1, 1, 0, 0]]


def test_a_model_without_segments_gets_none_even_when_asked(encoder_tokenizer):
    encoder_tokenizer.model_input_names = ["input_ids", "attention_mask"]
    store = encode(rows(["a"], ["b"]), encoder_tokenizer, spec(columns=PAIR, segment_ids="standard"))
    assert store.segments is None


def test_long_rows_are_cut_and_counted(encoder_tokenizer):
    store = encode(rows(["a b c d e", "a b c", "a b c d"]), encoder_tokenizer, spec(max_length=5))
    assert example(store, 0) == [2, 4, 5, 6, 3]
    assert store.lengths.tolist() == [5, 5, 5]
    assert store.truncated == 2


def test_of_a_long_pair_the_longer_side_is_cut(encoder_tokenizer):
    long, short = "a b c d e f", "g h"
    store = encode(rows([long, short], [short, long]), encoder_tokenizer, spec(columns=PAIR, max_length=7))
    assert example(store, 0) == [2, 4, 5, 3, 10, 11, 3]  # a b, g h
    assert example(store, 1) == [2, 10, 11, 3, 4, 5, 3]  # g h, a b
    assert store.truncated == 2


def test_an_empty_sentence_is_its_special_tokens(encoder_tokenizer):
    assert example(encode(rows(["", "a"]), encoder_tokenizer, spec()), 0) == [2, 3]


def test_an_empty_sentence_of_a_decoder_is_one_end_token(decoder_tokenizer):
    store = encode(rows(["", "a"]), decoder_tokenizer, spec())
    assert example(store, 0) == [0]
    assert store.batch(np.array([0, 1])).attention_mask.sum(1).tolist() == [1, 1]


def test_without_a_pad_token_the_end_token_pads(decoder_tokenizer):
    batch = encode(rows(["a b", "c"]), decoder_tokenizer, spec()).batch(np.array([0, 1]))
    assert batch.input_ids[1].tolist() == [4, 0]


def test_a_tokenizer_that_cannot_pad_is_named(tokenizer_without_end):
    tokenizer = tokenizer_without_end
    tokenizer.name_or_path = "some/decoder"
    with pytest.raises(DataError, match="some/decoder has neither a pad token nor an eos token"):
        encode(rows(["a"]), tokenizer, spec())


def test_a_batch_holds_the_asked_rows_in_order_padded_to_a_multiple(encoder_tokenizer):
    texts = ["a", "b c d e f g h", "c d", "d"]
    store = encode(rows(texts, labels=[0, 1, 0, 1]), encoder_tokenizer, spec())
    assert store.batch(np.array([3, 1])).input_ids.tolist() == [
        [2, 7, 3] + [0] * 6,
        [2, 5, 6, 7, 8, 9, 10, 11, 3],
    ]
    batch = store.batch(np.array([3, 1]), multiple=8)
    assert batch.input_ids.tolist() == [
        [2, 7, 3] + [0] * 13,
        [2, 5, 6, 7, 8, 9, 10, 11, 3] + [0] * 7,
    ]
    assert batch.attention_mask.tolist() == [[1] * 3 + [0] * 13, [1] * 9 + [0] * 7]
    assert batch.labels.tolist() == [1, 1]
    assert batch.indices.tolist() == [3, 1]
    assert len(batch) == 2
    assert {batch.input_ids.dtype, batch.attention_mask.dtype, batch.labels.dtype} == {torch.int64}


def test_padding_never_exceeds_the_longest_allowed_input(encoder_tokenizer):
    store = encode(rows(["a b c d e f g h i j"]), encoder_tokenizer, spec(max_length=10))
    assert store.batch(np.array([0]), multiple=8).input_ids.shape == (1, 10)


def test_gold_scores_stay_floats(encoder_tokenizer):
    data = Rows((["a"], ["b"]), np.array([3.8], dtype=np.float32))
    batch = encode(data, encoder_tokenizer, spec(columns=PAIR, kind="regression")).batch(np.array([0]))
    assert batch.labels.dtype == torch.float32
    assert batch.labels.item() == pytest.approx(3.8)


def test_more_rows_than_one_tokenizer_call_holds_stay_in_order(encoder_tokenizer):
    texts = [" ".join("abcdefgh"[: i % 8]) for i in range(4500)]
    store = encode(rows(texts), encoder_tokenizer, spec())
    assert store.lengths.tolist() == [i % 8 + 2 for i in range(4500)]
    assert example(store, 4003) == [2, 4, 5, 6, 3]


def entry_of(folder, data):
    return CacheStore(folder).path(token_key(data.fingerprint(), "t", spec()))


def test_the_cache_is_read_instead_of_tokenising_again(encoder_tokenizer, tmp_path, monkeypatch):
    data = rows(["a b", "c"], labels=[1, 0])
    first = encode_cached(data, data.fingerprint(), encoder_tokenizer, "t", spec(), tmp_path)
    monkeypatch.setattr("layertune.tasks.token_cache.encode", None)
    second = encode_cached(data, data.fingerprint(), encoder_tokenizer, "t", spec(), tmp_path)
    for store in (first, second):
        assert store.ids.tolist() == [2, 4, 5, 3, 2, 6, 3]
        assert store.batch(np.array([1])).labels.tolist() == [0]
    assert (second.truncated, second.pad_id, second.max_length) == (0, 0, 256)
    assert not second.ids.flags.owndata, "arrays are memory-mapped"
    assert [path.name for path in tmp_path.iterdir()] == [entry_of(tmp_path, data).name]


def test_of_several_processes_one_encodes_and_the_others_wait(encoder_tokenizer, tmp_path, monkeypatch):
    data, made = rows(["a b", "c"]), FORK.SimpleQueue()

    def slowly(*given):
        made.put(time.sleep(0.3))
        return encode(*given)

    monkeypatch.setattr("layertune.tasks.token_cache.encode", slowly)
    assert at_once(
        [lambda: encode_cached(data, data.fingerprint(), encoder_tokenizer, "t", spec(), tmp_path)] * 3
    ) == [0, 0, 0]
    made.get()
    assert made.empty()


def test_what_a_killed_process_left_of_an_entry_is_no_hindrance(encoder_tokenizer, tmp_path):
    data = rows(["a b", "c"])
    (tmp_path / f".writing-{entry_of(tmp_path, data).name}").mkdir()
    encode_cached(data, data.fingerprint(), encoder_tokenizer, "t", spec(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [entry_of(tmp_path, data).name]


def test_everything_that_changes_the_ids_changes_the_key():
    keys = [
        token_key("rows", "tokenizer", spec()),
        token_key("other rows", "tokenizer", spec()),
        token_key("rows", "other tokenizer", spec()),
        token_key("rows", "tokenizer", spec(max_length=128)),
        token_key("rows", "tokenizer", spec(segment_ids="standard")),
        token_key("rows", "tokenizer", spec(columns=PAIR)),
    ]
    assert all(keys.count(key) == 1 for key in keys)
    assert token_key("rows", "tokenizer", TaskSpec(name="other")) in keys, "the task's name does not matter"


@pytest.mark.parametrize("damage", ["flip", "cut", "facts", "truncated", "missing", "another's"])
def test_an_entry_that_is_not_as_it_was_written_is_encoded_again_and_said_so(
    encoder_tokenizer, tmp_path, caplog, damage
):
    data, other = rows(["a b", "c"]), rows(["d e", "f"])  # as many tokens
    encode_cached(data, data.fingerprint(), encoder_tokenizer, "t", spec(), tmp_path)
    entry = entry_of(tmp_path, data)
    ids, facts = entry / "ids", entry / "facts.json"
    content = ids.read_bytes()
    if damage == "flip":
        ids.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "cut":
        ids.write_bytes(content[:-3])
    elif damage == "facts":
        facts.write_text("{")
    elif damage == "truncated":
        facts.write_text(facts.read_text().replace('"truncated": 0', '"truncated": 1'))
    elif damage == "missing":
        ids.unlink()
    else:
        encode_cached(other, other.fingerprint(), encoder_tokenizer, "t", spec(), tmp_path)
        shutil.rmtree(entry)
        entry_of(tmp_path, other).rename(entry)
    with caplog.at_level(logging.WARNING):
        store = encode_cached(data, data.fingerprint(), encoder_tokenizer, "t", spec(), tmp_path)
    assert store.ids.tolist() == [2, 4, 5, 3, 2, 6, 3]
    assert store.truncated == 0
    assert "refused" in caplog.text


def test_batches_move_to_a_device_whole(encoder_tokenizer):
    data = rows(["a"], ["b"])
    store = encode(data, encoder_tokenizer, spec(columns=PAIR, segment_ids="standard"))
    moved = store.batch(np.array([0])).to("meta")
    tensors = (moved.input_ids, moved.attention_mask, moved.labels, moved.segment_ids)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
