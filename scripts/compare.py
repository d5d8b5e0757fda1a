"""Print records side by side: `python scripts/compare.py [--means | --modes] results/runs/*.json`.

One row per record; with --means one row per method, over its seeds; with --modes one row per task and method,
train=published beside train=fast over the seeds that both have, and a paired test.
"""

from __future__ import annotations

import sys
from pathlib import Path

from layertune.records import RecordError, read_record
from layertune.report.modes import compare_modes
from layertune.report.summary import compare, compare_means

WAYS = {"--means": compare_means, "--modes": compare_modes}

try:
    names = [name for name in sys.argv[1:] if name not in WAYS]
    if not names:
        sys.exit(print(__doc__, file=sys.stderr) or 2)
    records = [read_record(Path(name)) for name in names]
    print(next((WAYS[word] for word in sys.argv[1:] if word in WAYS), compare)(records))
except (RecordError, OSError, ValueError) as error:
    sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
