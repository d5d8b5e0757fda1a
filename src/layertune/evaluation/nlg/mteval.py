"""BLEU and NIST of the E2E challenge: what Perl's `mteval-v13a` computes, in one pass over the n-grams.

Tokens are those of sacrebleu's 13a tokenizer. The counts are our own because no package has this NIST, and
because sacrebleu's BLEU departs from the Perl scorer where nothing matches (0 instead of the smoothed
value) and where no output has four tokens (0 instead of a precision of 1 for the missing order).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

BLEU_ORDER, NIST_ORDER = 4, 5
_BETA = -math.log(0.5) / math.log(1.5) ** 2  # the NIST penalty is 1/2 at two thirds of the reference length
_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}  # É stays upper-case
Ngram = tuple[str, ...]


@dataclass
class NgramCounts:
    """Everything BLEU and NIST need to know about a corpus."""

    items: int = 0
    references: int = 0
    hypothesis_tokens: int = 0
    reference_tokens: int = 0
    closest_length: int = 0  # sum over items of the reference length closest to the output's
    mean_length: float = 0.0  # sum over items of the mean reference length
    totals: list[int] = field(default_factory=lambda: [0] * NIST_ORDER)  # n-grams of the outputs, by order
    hits: Counter[Ngram] = field(default_factory=Counter)  # clipped matches of each n-gram
    reference_ngrams: Counter[Ngram] = field(default_factory=Counter)  # with multiplicity, all references


def tokenize(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the mteval-13a tokens of each text (the default tokenization, not the international one)."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    split = Tokenizer13a()  # type: ignore[no-untyped-call]
    for text in texts:
        # After the entities, as in the Perl scorer: `&AMP;` is three tokens, `&amp;` is one.
        yield split(text).translate(_ASCII_LOWER).split()


def count_ngrams(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> NgramCounts:
    """Count the n-grams of orders 1 to 5 of a corpus of clean texts; every item has a reference."""
    return count_tokens(tokenize(hypotheses), map(tokenize, references))


def count_tokens(hypotheses: Iterable[list[str]], references: Iterable[Iterable[list[str]]]) -> NgramCounts:
    """Count the n-grams of a corpus that is tokenized already."""
    counts = NgramCounts()
    for hypothesis, group in zip(hypotheses, references, strict=True):
        allowed: dict[Ngram, int] = {}
        lengths = []
        for reference in group:
            lengths.append(len(reference))
            for ngram, times in _ngrams(reference).items():
                counts.reference_ngrams[ngram] += times
                if times > allowed.get(ngram, 0):
                    allowed[ngram] = times
        counts.items += 1
        counts.references += len(lengths)
        counts.reference_tokens += sum(lengths)
        counts.mean_length += sum(lengths) / len(lengths)
        counts.closest_length += _closest(lengths, len(hypothesis))
        counts.hypothesis_tokens += len(hypothesis)
        for order in range(NIST_ORDER):
            counts.totals[order] += max(0, len(hypothesis) - order)
        for ngram, times in _ngrams(hypothesis).items():
            if ngram in allowed:
                counts.hits[ngram] += min(times, allowed[ngram])
    return counts


def bleu(counts: NgramCounts) -> float:
    """Return corpus BLEU-4 in [0, 1]; 0 when the outputs have no token at all.

    The k-th order without a match counts 1 / (2^k * total); an order without n-grams counts 1.
    """
    if not counts.hypothesis_tokens:
        return 0.0
    matches = [0] * NIST_ORDER
    for ngram, times in counts.hits.items():
        matches[len(ngram) - 1] += times
    log_precisions, smoothing = 0.0, 1
    for order in range(BLEU_ORDER):
        if counts.totals[order] and not matches[order]:
            smoothing *= 2
            log_precisions -= math.log(smoothing * counts.totals[order])
        elif counts.totals[order]:
            log_precisions += math.log(matches[order] / counts.totals[order])
    brevity = min(0.0, 1 - counts.closest_length / counts.hypothesis_tokens)
    return math.exp(log_precisions / BLEU_ORDER + brevity)


def nist(counts: NgramCounts, *, mean_reference: bool = False) -> float:
    """Return corpus NIST-5.

    Args:
        counts: of the corpus.
        mean_reference: which reference length the penalty takes (Choice: [E2E, NIST] False). False: that of
            the Perl scorer (the published numbers of the challenge), all reference tokens divided by the mean
            number of references. True: that of its `-p` option (the LoRA recipe), the sum over items of the
            mean reference length.
    """
    if not counts.hypothesis_tokens:
        return 0.0
    information = [0.0] * NIST_ORDER
    for ngram, times in counts.hits.items():
        information[len(ngram) - 1] += times * _information(ngram, counts)
    score = sum(info / max(total, 1) for info, total in zip(information, counts.totals, strict=True))
    perl_length = counts.reference_tokens / (counts.references / counts.items)
    length = counts.mean_length if mean_reference else perl_length
    ratio = counts.hypothesis_tokens / length if length else 1.0
    return score if ratio >= 1 else score * math.exp(-_BETA * math.log(ratio) ** 2)


def _information(ngram: Ngram, counts: NgramCounts) -> float:
    """Return the bits that the last word adds to the words before it, by the counts of the references."""
    prefix = ngram[:-1]
    # The Perl scorer asks whether the prefix is true; the string "0" is not.
    before = counts.reference_tokens if prefix in ((), ("0",)) else counts.reference_ngrams[prefix]
    return math.log2(before / counts.reference_ngrams[ngram])


def _ngrams(tokens: list[str]) -> Counter[Ngram]:
    """Return the n-grams of orders 1 to 5 of one text."""
    found: Counter[Ngram] = Counter()
    for order in range(1, NIST_ORDER + 1):
        found.update(zip(*(tokens[start:] for start in range(order)), strict=False))
    return found


def _closest(lengths: Sequence[int], length: int) -> int:
    """Return the reference length closest to `length`, the shorter one of a tie.

    A reference without tokens is passed over unless it comes first, as in the Perl scorer.
    """
    first, *others = lengths
    return min([first, *filter(None, others)], key=lambda candidate: (abs(candidate - length), candidate))
