"""Print records side by side: `python scripts/compare.py [--means | --modes] results/runs/*.json`.

One row per record; with --means one row per method, over its seeds; with --modes one row per task and method,
train=published beside train=fast over the seeds that both have, and a paired test. A damaged record is named
and left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from layertune.command_line import run_script
from layertune.errors import WRONG_REQUEST, ConfigError
from layertune.records.store import read_files
from layertune.report.modes import compare_modes
from layertune.report.summary import compare, compare_means

WAYS = {"--means": compare_means, "--modes": compare_modes}


def main(words: list[str]) -> int | None:
    """Read the records and print them side by side."""
    names = [word for word in words if word not in WAYS]
    if not names:
        return print(__doc__, file=sys.stderr) or WRONG_REQUEST
    records, _ = read_files(map(Path, names))
    if not records:
        raise ConfigError("none of these files is a record.")
    print(next((WAYS[word] for word in words if word in WAYS), compare)(list(records.values())))
    return None


if __name__ == "__main__":
    run_script(lambda: main(sys.argv[1:]))
