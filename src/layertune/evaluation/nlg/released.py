"""What the paper's released code computes for E2E: nltk's BLEU and NIST, rouge-score's ROUGE-L.

None of them equals the official metric of the same kind; they exist to compare with numbers made by that
code. Its METEOR (the official program on untokenized text) and CIDEr (split at spaces) are left out.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from layertune.evaluation.nlg.text import checked

log = logging.getLogger(__name__)

# Choice: [E2E, sentences of the released code's metrics] nltk's word_tokenize splits them with a trained
# model that has to be downloaded; here a sentence ends at . ! or ? before white space, and the same word
# tokenizer follows.
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def secondary(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float | None]:
    """Return the scores of the released code: `nltk_bleu`, `nltk_nist`, `rouge_score_rouge_l`.

    Case-sensitive; NIST against the best reference of each item, None where nltk divides by zero (no output
    of five tokens).

    Raises:
        ConfigError: what `text.checked` refuses.
    """
    outputs, groups = checked(hypotheses, references)
    tokens = [words(text) for text in outputs]
    token_groups = [[words(text) for text in group] for group in groups]
    return {
        "nltk_bleu": _bleu(tokens, token_groups),
        "nltk_nist": _nist(tokens, token_groups),
        "rouge_score_rouge_l": _rouge_l(outputs, groups),
    }


def words(text: str) -> list[str]:
    """Return nltk's word tokens, sentence by sentence, so that each sentence's full stop is a token."""
    from nltk.tokenize import NLTKWordTokenizer

    tokenizer = NLTKWordTokenizer()
    return [word for sentence in _SENTENCE_END.split(text) for word in tokenizer.tokenize(sentence)]


def _bleu(tokens: list[list[str]], groups: list[list[list[str]]]) -> float:
    from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

    return float(corpus_bleu(groups, tokens, smoothing_function=SmoothingFunction().method1))


def _nist(tokens: list[list[str]], groups: list[list[list[str]]]) -> float | None:
    from nltk.translate.nist_score import corpus_nist

    try:
        return float(corpus_nist(groups, tokens, n=5))
    except ZeroDivisionError:
        log.warning("nltk_nist is not defined: nltk divides by zero on these outputs")
        return None


def _rouge_l(outputs: list[str], groups: list[list[str]]) -> float:
    """Return the mean over items of the best stemmed ROUGE-L F1 over the references."""
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    scorer = RougeScorer(["rougeL"], tokenizer=DefaultTokenizer(use_stemmer=True))  # named: else it logs
    best = (scorer.score_multi(group, text)["rougeL"] for text, group in zip(outputs, groups, strict=True))
    return float(sum(score.fmeasure for score in best) / len(outputs))
