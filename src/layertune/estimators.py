"""A classifier with scikit-learn's habits: `clone`, `Pipeline`, `cross_val_score`, `GridSearchCV` take it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from layertune.fine_tuning import fine_tune
from layertune.models.heads import name_labels
from layertune.models.loading import load_tokenizer, model_at, read_part
from layertune.saved.load import SavedModel, probabilities
from layertune.tasks.given import Text


class LayerTuneClassifier(ClassifierMixin, BaseEstimator):
    """Fine-tune a few layers of a language model on texts.

    Args:
        model: hub id or folder; each `fit` starts from its weights.
        k, strategy, epochs, learning_rate, batch_size, max_length, seed, device: as in `fine_tune`.

    Attributes:
        classes_: the labels, ascending, as they were given.
        model_, tokenizer_: what was trained.
        result_: layers, scores and costs (`FineTuned`).
    """

    def __init__(
        self,
        model: str = "sentence-transformers/all-MiniLM-L6-v2",
        k: int = 3,
        strategy: str = "low_k",
        epochs: int = 3,
        learning_rate: float = 1e-4,
        batch_size: int = 16,
        max_length: int = 256,
        seed: int = 0,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.k = k
        self.strategy = strategy
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_length = max_length
        self.seed = seed
        self.device = device

    def fit(self, X: Iterable[Text], y: Iterable[Any]) -> LayerTuneClassifier:  # noqa: N803 - as scikit-learn
        """Train on texts (strings, or pairs as tuples) and labels."""
        from transformers import AutoModelForSequenceClassification

        self.classes_, ids = np.unique(np.asarray(list(y)), return_inverse=True)
        torch_state = torch.random.get_rng_state()
        model = model_at(self.model)
        self.tokenizer_, _ = load_tokenizer(model)
        torch.manual_seed(self.seed)  # the head
        self.model_ = read_part(
            model,
            "weights",
            AutoModelForSequenceClassification,
            num_labels=max(2, len(self.classes_)),
            dtype=torch.float32,
        )
        torch.random.set_rng_state(torch_state)
        name_labels(self.model_.config, [str(name) for name in self.classes_])
        self.result_ = fine_tune(
            self.model_,
            self.tokenizer_,
            ([*X], [int(index) for index in ids]),
            None,
            k=self.k,
            strategy=self.strategy,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            max_length=self.max_length,
            seed=self.seed,
            device=self.device,
        )
        return self

    def predict_proba(self, X: Iterable[Text]) -> np.ndarray:  # noqa: N803
        """Return the probability of each class, [n, classes], in the order of `classes_`."""
        check_is_fitted(self, "model_")
        texts = [*X]
        pair = bool(texts) and isinstance(texts[0], tuple)
        about = {
            "labels": [str(name) for name in self.classes_],
            "kind": "classification",
            "columns": ["text", "text2"] if pair else ["text"],
            "max_length": self.max_length,
            "segment_ids": "standard",
        }
        return probabilities(SavedModel(self.model_, self.tokenizer_, about, self.device).logits(texts))

    def predict(self, X: Iterable[Text]) -> np.ndarray:  # noqa: N803
        """Return the class of each text."""
        return self.classes_[self.predict_proba(X).argmax(1)]

    def save_pretrained(self, folder: str) -> None:
        """Write model and tokenizer as the library does."""
        check_is_fitted(self, "model_")
        self.model_.save_pretrained(folder)
        self.tokenizer_.save_pretrained(folder)
