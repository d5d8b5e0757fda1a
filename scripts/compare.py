"""Print records side by side: `python scripts/compare.py results/runs/gte_small-trec-*.json`."""

from __future__ import annotations

import sys
from pathlib import Path

from layertune.records import RecordError, read_record
from layertune.report.summary import compare

try:
    paths = [Path(name) for name in sys.argv[1:]]
    if not paths:
        sys.exit(print(__doc__, file=sys.stderr) or 2)
    print(compare([read_record(path) for path in paths]))
except (RecordError, OSError) as error:
    sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
