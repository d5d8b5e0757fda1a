"""Draw a record's layer scores: `python scripts/plot_record.py results/runs/<run id>.json scores.png`."""

from __future__ import annotations

import sys
from pathlib import Path

from layertune.command_line import run_script
from layertune.errors import WRONG_REQUEST
from layertune.records import read_record
from layertune.report.figures import plot_record


def main(words: list[str]) -> int | None:
    """Read the record and draw it."""
    if len(words) != 2:
        return print(__doc__, file=sys.stderr) or WRONG_REQUEST
    plot_record(read_record(Path(words[0])), Path(words[1]))
    return None


if __name__ == "__main__":
    run_script(lambda: main(sys.argv[1:]))
