"""BLEU and NIST: values worked out on paper, the published doctest pairs, and sacrebleu on ordinary text."""

import math
import random

import pytest

from layertune.evaluation.nlg import mteval


def bleu(hypotheses, references):
    return mteval.bleu(mteval.count_ngrams(hypotheses, references))


def nist(hypotheses, references, **kwargs):
    return mteval.nist(mteval.count_ngrams(hypotheses, references), **kwargs)


def penalty(ratio):
    """1/2 at two thirds, by the formula of the metric's paper: exp(beta ln^2 ratio)."""
    return 0.5 ** ((math.log(ratio) / math.log(1.5)) ** 2)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It costs £20-25.", ["it", "costs", "£20", "-", "25", "."]),
        ("Rated 3.5/5 (1,234.50)", ["rated", "3.5", "/", "5", "(", "1,234.50", ")"]),
        ("family-friendly, it's", ["family-friendly", ",", "it's"]),
        ("the pub.It is", ["the", "pub", ".", "it", "is"]),
        ("R&amp;B &quot;x&quot;", ["r", "&", "b", '"', "x", '"']),
        ("&AMP;", ["&", "amp", ";"]),  # entities are case-sensitive and come before lower-casing
        ("CAFÉ Élan", ["cafÉ", "Élan"]),  # only ASCII letters are lower-cased
        ("", []),
    ],
)
def test_tokens_are_those_of_mteval_13a(text, tokens):
    assert list(mteval.tokenize([text])) == [tokens]


def test_a_copy_of_a_reference_has_bleu_one():
    assert bleu(["the mill is a pub ."], [["a pub", "The Mill is a pub."]]) == pytest.approx(1, abs=1e-12)


def test_bleu_of_one_sentence_by_hand():
    # 3/4, 2/3, 1/2, and no 4-gram of one: 1 / (2 * 1)
    assert bleu(["a b c d"], [["a b c e"]]) == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)


def test_each_further_order_without_a_match_halves_once_more():
    # 2/4, then 1 / (2 * 3), 1 / (4 * 2), 1 / (8 * 1)
    assert bleu(["a x b y"], [["a b c d"]]) == pytest.approx((1 / 2 * 1 / 6 * 1 / 8 * 1 / 8) ** 0.25)


def test_no_match_at_all_is_smoothed_and_not_zero():
    # 1 / (2 * 4), 1 / (4 * 3), 1 / (8 * 2), 1 / (16 * 1)
    expected = (1 / 8 * 1 / 12 * 1 / 16 * 1 / 16) ** 0.25
    assert bleu(["x y z w"], [["a b c d"]]) == pytest.approx(expected)


def test_an_order_without_any_ngram_counts_one():
    assert bleu(["a b c"], [["a b c"]]) == pytest.approx(1)
    assert bleu(["a b x"], [["a b c"]]) == pytest.approx((2 / 3 * 1 / 2 * 1 / 2) ** 0.25)


def test_counts_are_clipped_against_the_largest_count_in_one_reference():
    # `the` is twice in one reference and once in the other: 2 of 4, not 3; `the the` once of 3
    references = [["the cat x y", "a b the the"]]
    expected = (2 / 4 * 1 / 3 * 1 / (2 * 2) * 1 / (4 * 1)) ** 0.25
    assert bleu(["the the the the"], references) == pytest.approx(expected)


def test_of_two_equally_close_reference_lengths_the_shorter_counts():
    # 5 tokens between references of 4 and 6: no penalty with 4, exp(1 - 6/5) with 6
    assert bleu(["a b c d e"], [["a b c d", "a b c d e f"]]) == pytest.approx(1)


def test_missing_references_are_not_references_of_length_zero():
    hypotheses = ["a b c d e", "a b"]
    references = [["a b c d e", "a b c d e f g h i"], ["a b c d"]]
    # 7 output tokens, closest lengths 5 + 4; with "" for the missing one it would be 5 + 0 and no penalty
    assert bleu(hypotheses, references) == pytest.approx(math.exp(1 - 9 / 7))


def test_an_empty_output_costs_its_reference_length():
    assert bleu(["a b c d", ""], [["a b c d"], ["a b c d"]]) == pytest.approx(math.exp(1 - 8 / 4))


def test_outputs_without_any_token_score_zero():
    assert bleu(["", ""], [["a b"], ["c"]]) == 0
    assert nist(["", ""], [["a b"], ["c"]]) == 0
    assert nist(["", ""], [["a b"], ["c"]], mean_reference=True) == 0


@pytest.mark.parametrize("seed", range(4))
def test_bleu_equals_sacrebleu_on_ragged_references(seed):
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = random.Random(seed)
    words = ["the", "mill", "pub", "is", "near", "£20-25.", "family-friendly", "café", "3.5/5", "it's"]
    texts = [[" ".join(rng.choices(words, k=rng.randint(4, 12))) for _ in range(5)] for _ in range(20)]
    references = [group[: rng.randint(1, 4)] for group in texts]
    hypotheses = [rng.choice([group[0], group[4], ""]) for group in texts]
    streams = [
        [group[k] if k < len(group) else None for group in references]
        for k in range(max(map(len, references)))
    ]
    expected = sacrebleu.corpus_bleu(hypotheses, streams, tokenize="13a", force=True).score / 100
    assert bleu(hypotheses, references) == pytest.approx(expected, abs=1e-12)


def test_nist_of_one_sentence_by_hand():
    # T = 4; info(a) = log2(4/2) = 1, info(b) = log2(4/1) = 2, info(a b) = log2(2/1) = 1; 2 tokens against 4
    assert nist(["a b"], [["a b a c"]]) == pytest.approx((3 / 2 + 1 / 1) * penalty(2 / 4))


def test_the_nist_penalty_is_one_half_at_two_thirds_and_none_above_one():
    # info(a) = info(b) = log2(3), info(a b) = 0
    assert nist(["a b"], [["a b c"]]) == pytest.approx(math.log2(3) / 2)
    # c is matched too; the fourth token only adds to the denominator
    assert nist(["a b c x"], [["a b c"]]) == pytest.approx(3 * math.log2(3) / 4)


def test_nist_counts_ngrams_over_all_references_of_all_items():
    # T = 6; N(a) = 3, N(b) = 1: info 1 and log2 6; N(a b) = 1: log2 3. Tokens: 3 against 6 / (3 / 2) = 4
    information = ((1 + math.log2(6)) + 1) / 3 + math.log2(3) / 1
    assert nist(["a b", "a"], [["a b", "a c"], ["a d"]]) == pytest.approx(information * penalty(3 / 4))


def test_nist_takes_the_best_reference_for_each_ngram_and_not_one_reference():
    # T = 4, all words once: info 2 each; a from the first, c from the second reference; no bigram matches
    assert nist(["a c"], [["a b", "c d"]]) == pytest.approx((2 + 2) / 2)


def test_the_two_reference_lengths_of_nist():
    hypotheses, references = ["a b", "e f g h"], [["a b", "a c", "a d"], ["e f g h i j"]]
    # Perl: 12 tokens / (4 references / 2 items) = 6, the outputs' length; -p: 2 + 6 = 8
    perl = nist(hypotheses, references)
    assert nist(hypotheses, references, mean_reference=True) == pytest.approx(perl * penalty(6 / 8))
    long = ["a b c d e f", "e f g h"]
    assert nist(long, references) == nist(long, references, mean_reference=True)


def test_a_prefix_that_is_the_token_zero_counts_as_no_prefix():
    # As in Perl: info(0 a) = log2(T / 1) = log2 3 instead of log2(1 / 1); penalty 1/2
    assert nist(["0 a"], [["0 a b"]]) == pytest.approx((2 * math.log2(3) / 2 + math.log2(3)) / 2)


GUIDE = [
    "It is a guide to action that ensures that the military will forever heed Party commands",
    "It is the guiding principle which guarantees the military forces always being under the command "
    "of the Party",
    "It is the practical guide for the army always to heed the directions of the party",
]
ACTION = "It is a guide to action which ensures that the military always obeys the commands of the party"
TROOPS = "It is to insure the troops forever hearing the activity guidebook that party direct"


@pytest.mark.parametrize(("hypothesis", "expected"), [(ACTION, 5.0379), (TROOPS, 2.1139)])
def test_nist_of_the_example_in_nltk_equals_mteval_where_nltk_does_not(hypothesis, expected):
    # The numbers of `mteval-v13a -c` (nltk/nltk#3901), which keeps upper case: `Party` is not `party`.
    counts = mteval.count_tokens([hypothesis.split()], [[reference.split() for reference in GUIDE]])
    assert mteval.nist(counts) == pytest.approx(expected, abs=5e-5)


def test_nist_lower_cases():
    assert nist([ACTION], [GUIDE]) == nist([ACTION.lower()], [[text.upper() for text in GUIDE]]) != 5.0379


def test_nist_equals_nltk_where_every_item_has_one_reference():
    from nltk.translate.nist_score import corpus_nist

    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefg", k=rng.randint(5, 12))) for _ in range(12)]
    hypotheses = [" ".join(text[:-1]) for text in texts]
    references = [[" ".join(text)] for text in texts]
    expected = corpus_nist(
        [[group[0].split()] for group in references], [text.split() for text in hypotheses]
    )
    assert nist(hypotheses, references) == pytest.approx(expected, abs=1e-10)
    assert nist(hypotheses, references, mean_reference=True) == pytest.approx(expected, abs=1e-10)
