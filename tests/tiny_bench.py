"""The shape of a model on which arms of the benchmark take no time."""

from __future__ import annotations

TINY = {"hidden_size": 24, "intermediate_size": 48, "num_attention_heads": 2, "vocab_size": 20000}
