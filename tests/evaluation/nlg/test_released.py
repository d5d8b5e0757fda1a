"""The released code's metrics, under their own names, through nltk and rouge-score."""

import math

import pytest

from layertune.evaluation import nlg
from layertune.evaluation.nlg import mteval, released


def test_words_split_the_full_stop_of_each_sentence():
    assert released.words("It's a pub. Food is £20-25.") == [
        *("It", "'s", "a", "pub", "."),
        *("Food", "is", "£20-25", "."),
    ]


def test_names_do_not_meet_those_of_the_official_metrics():
    assert list(nlg.secondary(["a b c d e"], [["a b c d e"]])) == [
        "nltk_bleu",
        "nltk_nist",
        "rouge_score_rouge_l",
    ]


def test_nltk_bleu_is_case_sensitive_and_smoothed_by_a_tenth():
    # 4/5, 3/4, 2/3, 1/2 where lower-casing would match all
    scores = nlg.secondary(["a b c d e"], [["a b c d E"]])
    assert scores["nltk_bleu"] == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
    # method 1 of nltk: 0.1 in place of no match; 3/4, 2/3, 1/2, 0.1/1
    scores = nlg.secondary(["a b c d"], [["a b c e"]])
    assert scores["nltk_bleu"] == pytest.approx((3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25)


def test_nltk_nist_takes_one_best_reference_where_the_official_metric_pools_them():
    hypotheses, references = ["a b c d e f"], [["a b c x y z", "u v w d e f"]]
    official = mteval.nist(mteval.count_ngrams(hypotheses, references))
    # one reference matches 3 words and 2 bigrams, 1 trigram, of 6, 5, 4; all words occur once of 12
    assert nlg.secondary(hypotheses, references)["nltk_nist"] == pytest.approx(3 * math.log2(12) / 6)
    assert official == pytest.approx(6 * math.log2(12) / 6)


def test_nltk_nist_is_none_where_nltk_divides_by_zero():
    assert nlg.secondary(["a b", ""], [["a b"], ["c"]])["nltk_nist"] is None


def test_rouge_score_stems_and_takes_the_best_reference():
    # `serves` and `serving` share a stem: P = 1, R = 2/3, F = 4/5; the other reference gives 2/3
    for references in (["serving food now", "food"], ["food", "serving food now"]):
        scores = nlg.secondary(["serves food", ""], [references, ["a"]])
        assert scores["rouge_score_rouge_l"] == pytest.approx((4 / 5 + 0) / 2)
