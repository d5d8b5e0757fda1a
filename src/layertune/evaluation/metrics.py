"""Metrics of the classification and regression tasks: pure numpy functions of predictions and references.

Every function takes two 1-d arrays of equal length, predictions first, and returns a fraction. Degenerate
inputs: empty arrays, unequal lengths and non-finite values raise ValueError; where a ratio is 0 / 0 the value
is scikit-learn's 0.0 (`f1_*`, `mcc`); a correlation with a constant side does not exist and is None, never an
invented number. `evaluate_module` wraps any of them as an `evaluate.Metric` that needs no network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from layertune.errors import ConfigError

if TYPE_CHECKING:
    import evaluate


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the share of predictions that equal their reference."""
    predictions, references = _checked(predictions, references)
    return float(np.mean(predictions == references))


def f1_macro(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the unweighted mean of the per-label F1 over the labels that occur on either side.

    Choice: [which "F1"] the paper prints one for MRPC and QQP without saying which; its numbers fit the macro
    form, while the binary one would put a constant predictor level with full fine-tuning.
    """
    matched, predicted, actual = _confusion(predictions, references)
    # Every label counted here occurs on at least one side, so no denominator is zero.
    return float(np.mean(2 * matched / (predicted + actual)))


def f1_binary(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the F1 of label 1, as GLUE reports it; 0.0 when label 1 occurs on neither side.

    Raises:
        ValueError: a label other than 0 and 1.
    """
    predictions, references = _checked(predictions, references)
    if not (np.isin(predictions, (0, 1)).all() and np.isin(references, (0, 1)).all()):
        raise ValueError("f1_binary takes the labels 0 and 1 only; use f1_macro for more classes")
    matched = np.sum((predictions == 1) & (references == 1))
    either = np.sum(predictions == 1) + np.sum(references == 1)
    return float(2 * matched / either) if either else 0.0


def mcc(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return Matthews' correlation coefficient, two classes or more; 0.0 when either side is constant."""
    matched, predicted, actual = (counts.astype(np.float64) for counts in _confusion(predictions, references))
    total = predicted.sum()
    covariance = matched.sum() * total - predicted @ actual
    variance_predicted = total**2 - predicted @ predicted
    variance_actual = total**2 - actual @ actual
    if variance_predicted == 0 or variance_actual == 0:
        return 0.0
    return float(covariance / np.sqrt(variance_predicted) / np.sqrt(variance_actual))


def pearson(predictions: np.ndarray, references: np.ndarray) -> float | None:
    """Return Pearson's r in float64, or None when either side is constant (a single example included)."""
    predictions, references = _checked(predictions, references)
    x, y = predictions.astype(np.float64), references.astype(np.float64)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    # Unit length one side at a time: the product of two large sums of squares could overflow.
    x, y = x / np.abs(x).max(), y / np.abs(y).max()
    return float(np.clip((x / np.linalg.norm(x)) @ (y / np.linalg.norm(y)), -1.0, 1.0))


def spearman(predictions: np.ndarray, references: np.ndarray) -> float | None:
    """Return Spearman's rho: Pearson's r of the ranks, ties sharing their mean rank; None as `pearson`."""
    predictions, references = _checked(predictions, references)
    return pearson(_ranks(predictions), _ranks(references))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float | None]] = {
    "accuracy": accuracy,
    "f1_macro": f1_macro,
    "f1_binary": f1_binary,
    "mcc": mcc,
    "pearson": pearson,
    "spearman": spearman,
}


def compute(names: Iterable[str], predictions: np.ndarray, references: np.ndarray) -> dict[str, float | None]:
    """Return the named metrics in the order given; None marks a correlation that does not exist.

    Raises:
        ConfigError: a name that `METRICS` does not hold.
        ValueError: empty, unequally long or non-finite input.
    """
    return {name: _metric(name)(predictions, references) for name in names}


def evaluate_module(name: str, **kwargs: Any) -> evaluate.Metric:
    """Return the metric as an `evaluate.Metric` that needs no hub and no script, fit for `evaluate.combine`.

    Args:
        name: a key of `METRICS`; also the key of the result.
        kwargs: passed to `evaluate.Metric`, e.g. `keep_in_memory=True`, `num_process=2, process_id=0`.

    Raises:
        ConfigError: a name that `METRICS` does not hold.
    """
    import datasets
    import evaluate

    function = _metric(name)
    dtype = "float64" if name in ("pearson", "spearman") else "int64"

    class Module(evaluate.Metric):
        """One function of `METRICS` behind the interface of the `evaluate` library."""

        def _info(self) -> evaluate.MetricInfo:
            columns = {column: datasets.Value(dtype) for column in ("predictions", "references")}
            return evaluate.MetricInfo(
                module_name=name,
                description=function.__doc__ or "",
                citation="",
                inputs_description=f"predictions and references: lists of {dtype}",
                features=datasets.Features(columns),
            )

        def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float | None]:
            return {name: function(np.asarray(predictions), np.asarray(references))}

    return Module(**kwargs)


def _metric(name: str) -> Callable[[np.ndarray, np.ndarray], float | None]:
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}: choose one of {', '.join(METRICS)}")
    return METRICS[name]


def _checked(predictions: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both sides as 1-d arrays of equal length, or raise ValueError."""
    predictions, references = np.asarray(predictions), np.asarray(references)
    if predictions.ndim != 1 or predictions.shape != references.shape:
        raise ValueError(
            "predictions and references must be 1-d and equally long, "
            f"got shapes {predictions.shape} and {references.shape}"
        )
    if not len(predictions):
        raise ValueError("no examples: a metric of nothing is not defined")
    for side, values in (("predictions", predictions), ("references", references)):
        if not np.isfinite(values).all():
            raise ValueError(f"{side} hold values that are not finite (nan or inf)")
    return predictions, references


def _confusion(predictions: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, per label that occurs on either side: hits, times predicted, times in the references."""
    predictions, references = _checked(predictions, references)
    labels, codes = np.unique(np.concatenate([predictions, references]), return_inverse=True)
    predicted, actual = codes[: len(predictions)], codes[len(predictions) :]
    hits = predicted[predicted == actual]
    counts = (np.bincount(side, minlength=len(labels)) for side in (hits, predicted, actual))
    return tuple(counts)  # type: ignore[return-value]


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return 1-based ranks; tied values share the mean of the ranks they span."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[group]
