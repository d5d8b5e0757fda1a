"""What needs no language model: the commonest answer, TF-IDF with a linear model. Is one worth it?"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from layertune.evaluation.metrics import compute
from layertune.tasks.rows import Rows


@dataclass(frozen=True)
class Baseline:
    """One simple model's scores on the evaluation rows: metric -> fraction, and the seconds it took."""

    name: str
    scores: dict[str, float | str | None]
    seconds: float


def baselines(train: Rows, held_out: Rows, kind: str, metrics: tuple[str, ...]) -> list[Baseline]:
    """Fit the simple models on the training rows and score them on the others.

    Args:
        train: texts and labels.
        held_out: the evaluation rows.
        kind: classification or regression.
        metrics: names of what is computed; the first is shown.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline

    regression = kind == "regression"
    linear = Ridge() if regression else LogisticRegression(max_iter=1000, C=10.0)
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\S+")
    found: list[Baseline] = []
    if not regression:
        answer = np.full(len(held_out), np.bincount(train.labels).argmax())
        found.append(Baseline("majority class", compute(metrics, answer, held_out.labels), 0.0))
    if len(np.unique(train.labels)) > 1:
        began = time.perf_counter()
        fitted = make_pipeline(words, linear).fit(_joined(train), train.labels)
        answers = fitted.predict(_joined(held_out))
        name = "TF-IDF + ridge regression" if regression else "TF-IDF + logistic regression"
        scores = compute(metrics, answers, held_out.labels)
        found.append(Baseline(name, scores, time.perf_counter() - began))
    return found


def _joined(rows: Rows) -> list[str]:
    """Return each row's texts as one."""
    return [" ".join(texts) for texts in zip(*rows.texts, strict=True)]
