"""Train rows of a landscape again, each by a command of its own, and say what differs: nothing should.

python scripts/check_landscape.py model=minilm_l6 task=trec k=3 --rows 20   as it was filled

Exit codes: 1 if a row differs, 2 if the request was wrong.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from layertune.command_line import run_script
from layertune.landscape.check import check

RUN = Path(__file__).parents[1] / "run.py"


def main() -> int:
    """Print a line per row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", help="key=value, such as model=gte_small task=trec k=3")
    parser.add_argument("--rows", type=int, default=20, help="how many are drawn, with seed 0")
    args = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="layertune-check-") as folder:
        for row, differs in check(args.words, args.rows, RUN, Path(folder)):
            print(f"{row.run_id}: {'; '.join(differs) or 'the same'}", flush=True)
            wrong += bool(differs)
    return 1 if wrong else 0


if __name__ == "__main__":
    run_script(main)
