"""Files of landscapes made by hand: every field is there, only what a test is about is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

GROUND: dict[str, Any] = {
    "schema": 1,
    "model": "tiny_bert",
    "task": "demo",
    "num_layers": 4,
    "metric": "accuracy",
    "learning_rate": 3e-4,
    "config": {"model": {"name": "tiny_bert"}, "task": {"name": "demo"}},
    "weights": "w",
    "versions": {"schema": 1, "model": 1, "task": 1, "method": 1, "train": 3},
    "data": {
        "source": "synthetic",
        "revision": None,
        "status": "synthetic",
        "fingerprint_sha256": "f",
        "counts": {"train": 64, "demo": 10},
        "labels": ["negative", "positive"],
        "truncated_fraction": 0.0,
    },
    "gold": [1] * 10,
}


def row(layers, seed: int, wrong=None, score: float = 0.5, rows: int = 10, **more: Any) -> dict[str, Any]:
    """One line; with `wrong`, the rows answered wrongly, the score is the share of the others."""
    listed = None if wrong is None else [[int(place), 0] for place in wrong]
    return {
        "layers": list(layers),
        "seed": seed,
        "score": score if listed is None else 1 - len(listed) / rows,
        "best": None,
        "loss": 0.5,
        "seconds": 1.0,
        "cache_seconds": 0.0,
        "checks": {
            "frozen_unchanged": True,
            "trained_changed": True,
            "loss_finite": True,
            "trainable_matches_selection": True,
            "beats_majority": True,
        },
        "run_id": f"tiny_bert-demo-layers-s{seed}-{'_'.join(map(str, layers))}",
        "created_at": "2026-01-01T00:00:00+00:00",
        "git_commit": None,
        "git_dirty": None,
        "device": "a CPU, 1 thread",
        "wrong": listed,
    } | more


def write(results: Path, ground: dict[str, Any], rows: list[dict[str, Any]], name: str = "") -> Path:
    """Write a landscape into a folder of results."""
    folder = results / "landscapes"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name or '{model}-{task}-00000000'.format(**ground)}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (ground, *rows)))
    return path
