"""Print records side by side: `python scripts/compare.py [--means] results/runs/gte_small-trec-*.json`.

One row per record; with --means one row per method, over its seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from layertune.records import RecordError, read_record
from layertune.report.summary import compare, compare_means

try:
    names = [name for name in sys.argv[1:] if name != "--means"]
    if not names:
        sys.exit(print(__doc__, file=sys.stderr) or 2)
    records = [read_record(Path(name)) for name in names]
    print(compare_means(records) if "--means" in sys.argv else compare(records))
except (RecordError, OSError) as error:
    sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
