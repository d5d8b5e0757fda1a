"""Result files of the benchmark: numbers as JSON, and beside them the page made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layertune.config.files import write_atomic


def save_result(path: Path, content: dict[str, Any], page_of: Callable[[dict[str, Any]], str]) -> None:
    """Write numbers to `path` (.json), then the page made of them beside it (.md), each whole or not at all.

    Raises:
        OSError: a file cannot be written.
    """
    write_atomic(path.with_suffix(".json"), (json.dumps(content, indent=1) + "\n").encode())
    write_atomic(path.with_suffix(".md"), page_of(content).encode())
