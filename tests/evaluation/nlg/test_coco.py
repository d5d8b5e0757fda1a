"""PTB tokens, ROUGE-L and CIDEr: one trap of the official scorer per test, values worked out on paper."""

import math
import random

import pyarrow.parquet as pq
import pytest

from layertune.errors import ConfigError
from layertune.evaluation.nlg import coco

SENTENCES = {
    "It's £20-25, family-friendly (cheap)!": "it 's # 20-25 family-friendly -lrb- cheap -rrb-",
    "CAFÉ Élan isn't near": "café élan is n't near",
    "Rated 3 out of 5; not 1/5...": "rated 3 out of 5 not 1/5",
    "Near St. Mary's, 20£.": "near st. mary 's 20 #",
    "The pub.It is low -priced": "the pub.it is low priced",
    'A "quoted" name - or --- two': "a quoted name or two",
    "Fish &amp; chips: rated 3.5/5.": "fish & chips rated 3.5 / 5",  # a fraction has whole numbers
    "Costs £1,234.50.": "costs # 1,234.50",
    "We cannot, they don’t": "we can not they do n't",
    "": "",
}


def test_ptb_tokens_of_the_stanford_tokenizer(java):
    tokens, groups = coco.ptb_tokenize(list(SENTENCES), [[text] for text in SENTENCES], java)
    assert tokens == list(SENTENCES.values())
    assert groups == [[text] for text in SENTENCES.values()]


def test_the_built_in_tokens_are_the_same_on_these():
    tokens, groups = coco.ptb_tokenize_without_java(list(SENTENCES), [[text] for text in SENTENCES])
    assert tokens == list(SENTENCES.values())
    assert groups == [[text] for text in SENTENCES.values()]


@pytest.mark.slow
def test_the_built_in_tokens_are_the_same_on_all_test_references(java, shared_data):
    texts = pq.read_table(shared_data / "e2e" / "test.parquet")["human_reference"].to_pylist()
    texts = [" ".join(text.split()) for text in texts]
    assert coco.ptb_tokenize_without_java(texts, [["x"]]) == coco.ptb_tokenize(texts, [["x"]], java)


def test_ragged_references_come_back_in_their_groups(java):
    references = [["One.", "Two."], ["Three."], ["Four.", "", "Five."]]
    assert coco.ptb_tokenize(["", "Ah.", ""], references, java) == (
        ["", "ah", ""],
        [["one", "two"], ["three"], ["four", "", "five"]],
    )


def test_rouge_l_of_one_reference_by_hand():
    # P = 2/2, R = 2/4, beta = 1.2
    assert coco.rouge_l(["a x b"], [["a b c d"]]) == pytest.approx(
        2.44 * (2 / 3) * (2 / 4) / (2 / 4 + 1.44 * 2 / 3)
    )


def test_rouge_l_takes_precision_and_recall_from_different_references():
    # P = 4/4 from the second, R = 2/2 from the first reference
    assert coco.rouge_l(["a b c d"], [["a b", "a b c d e f g h"]]) == pytest.approx(1)


def test_rouge_l_is_the_mean_over_items_and_an_empty_output_counts_zero():
    assert coco.rouge_l(["a b", ""], [["a b"], ["c d"]]) == pytest.approx(1 / 2)


def test_cider_by_hand():
    # Two items, every n-gram in one of them: idf = ln 2. Item 1: cosine 1 for n = 1 and 2, none for 3 and 4.
    assert coco.cider(["a b", "x y"], [["a b"], ["c d"]]) == pytest.approx(10 * (2 / 4 + 0) / 2)


def test_cider_counts_items_and_not_references_in_which_an_ngram_occurs():
    # `a` occurs in both items: idf ln(2/2) = 0. `b` twice in the references of item 1 only: idf ln 2.
    references = [["a b", "b"], ["a d"]]
    first = (1 + 1) / 4  # against `a b`: n = 1: b alone counts, cosine 1; n = 2: 1
    # against `b`: n = 1: 1; one bigram more than the reference: exp(-1 / 72)
    second = 1 / 4 * math.exp(-1 / 72)
    assert coco.cider(["a b", ""], references) == pytest.approx(10 * (first + second) / 2 / 2)


def test_cider_clips_and_punishes_length():
    # n = 1: 2 of 3 words: 2 / sqrt(2 * 3); n = 2: 1 / sqrt(1 * 2); bigram counts 1 and 2: exp(-1 / 72)
    expected = 10 * (2 / math.sqrt(6) + 1 / math.sqrt(2)) / 4 * math.exp(-1 / 72) / 2
    assert coco.cider(["a b", ""], [["a b c"], ["d"]]) == pytest.approx(expected)


def test_cider_of_a_copy_is_not_ten_with_several_references():
    assert coco.cider(["a b c d", "q"], [["a b c d", "e f g h"], ["q"]]) == pytest.approx((5 + 10 / 4) / 2)


def test_cider_of_a_single_item_is_zero():
    assert coco.cider(["a b"], [["a b"]]) == 0


def test_cider_without_any_word_in_the_references_is_refused():
    with pytest.raises(ConfigError, match="no reference holds a word"):
        coco.cider(["a", "b"], [[""], [""]])


def test_order_of_items_does_not_matter(java):
    rng = random.Random(0)
    words = ["The", "Mill", "isn't", "£20-25.", "É", "cheap,", "5"]
    items = [(" ".join(rng.choices(words, k=4)), [" ".join(rng.choices(words, k=5))]) for _ in range(6)]
    one = coco.ptb_tokenize(*map(list, zip(*items, strict=True)), java)
    two = coco.ptb_tokenize(*map(list, zip(*reversed(items), strict=True)), java)
    assert coco.cider(*one) == pytest.approx(coco.cider(*two))
    assert coco.rouge_l(*one) == pytest.approx(coco.rouge_l(*two))
