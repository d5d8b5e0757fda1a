"""Draw a record's layer scores: `python scripts/plot_record.py results/runs/<run id>.json scores.png`."""

from __future__ import annotations

import sys
from pathlib import Path

from layertune.records import RecordError, read_record
from layertune.report.figures import plot_record

if len(sys.argv) != 3:
    sys.exit(print(__doc__, file=sys.stderr) or 2)
try:
    plot_record(read_record(Path(sys.argv[1])), Path(sys.argv[2]))
except (RecordError, ValueError, OSError) as error:
    sys.exit(print(f"error: {error}", file=sys.stderr) or 2)
