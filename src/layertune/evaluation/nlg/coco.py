"""ROUGE-L and CIDEr of the E2E challenge: the COCO caption scorers on Stanford PTB tokens.

The scorers are those of `pycocoevalcap`. Its tokenizer wrapper is not used: it writes into its installed
folder and finds Java on the PATH only.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer import ptbtokenizer

from layertune.errors import ConfigError, JavaError
from layertune.evaluation.nlg import ptb

_PUNCTUATION = frozenset(ptbtokenizer.PUNCTUATIONS)
Tokenized = tuple[list[str], list[list[str]]]


def ptb_tokenize(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], java: str | None
) -> Tokenized:
    """Return outputs and references as lower-case PTB tokens joined by spaces, without punctuation tokens.

    All references go through one process and all outputs through another, as in the official scorer: the
    tokenizer looks ahead over the end of a line, so the company of a text is part of its definition.

    Raises:
        JavaError: there is no Java, or the tokenizer did not run to its end.
    """
    if java is None:
        raise JavaError("there is no Java for it")
    return _tokenize(hypotheses, references, lambda texts: _stanford(texts, java))


def ptb_tokenize_without_java(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Tokenized:
    """Return the same from the built-in rules of `ptb`, which may differ on text unlike E2E's."""
    return _tokenize(hypotheses, references, lambda texts: [_words(ptb.tokens(text)) for text in texts])


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return ROUGE-L of PTB tokens: F, beta 1.2, of the best precision and best recall; mean over items."""
    return float(Rouge().compute_score(*_as_captions(hypotheses, references))[0])


def cider(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return CIDEr of PTB tokens; document frequencies are those of the items given.

    A subset has a CIDEr of its own; a single item always has 0 (log 1 = 0).

    Raises:
        ConfigError: no reference holds a word.
    """
    if not any(reference.strip() for group in references for reference in group):
        raise ConfigError("CIDEr is not defined: no reference holds a word")
    return float(Cider().compute_score(*_as_captions(hypotheses, references))[0])


def _tokenize(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    tokenize: Callable[[Sequence[str]], list[str]],
) -> Tokenized:
    lines = iter(tokenize([reference for group in references for reference in group]))
    return tokenize(hypotheses), [[next(lines) for _ in group] for group in references]


def _stanford(texts: Sequence[str], java: str) -> list[str]:
    """Tokenize one text per line; the texts hold no line separators (`text.clean`)."""
    jar = Path(ptbtokenizer.__file__).with_name(ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR)
    command = [java, "-XX:+UseSerialGC", "-Dfile.encoding=UTF-8", "-cp", str(jar)]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    try:
        done = subprocess.run(command, input="\n".join(texts).encode(), capture_output=True)
    except OSError as error:
        raise JavaError(f"the PTB tokenizer could not be started: {error}") from error
    if done.returncode:
        message = " ".join(done.stderr.decode(errors="replace").split())[-300:]
        raise JavaError(f"the PTB tokenizer ended with code {done.returncode}: {message}")
    lines = done.stdout.decode().split("\n")
    if len(lines) != len(texts):
        raise RuntimeError(f"the PTB tokenizer made {len(lines)} lines of {len(texts)} texts")
    return [_words(line.rstrip().split(" ")) for line in lines]


def _words(tokens: Iterable[str]) -> str:
    return " ".join(token for token in tokens if token not in _PUNCTUATION)


def _as_captions(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return the two dicts of the COCO scorers: references by item, outputs by item."""
    return dict(enumerate(map(list, references))), {item: [text] for item, text in enumerate(hypotheses)}
