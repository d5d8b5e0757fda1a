"""Train rows of a landscape again, each by a command of its own, and say what differs: nothing should.

python scripts/check_landscape.py model=minilm_l6 task=trec k=3 seed=0,42 --rows 20   as it was filled

The same command goes on where it was stopped: what was trained again is kept in --folder.
Exit codes: 1 if a row differs, 2 if the request was wrong.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from layertune.command_line import run_script
from layertune.landscape.sweep import compared, drawn, trained_again

RUN = Path(__file__).parents[1] / "run.py"


def main() -> int:
    """Print a line per row: what is compared, and whether it is the same."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", help="key=value, such as model=gte_small task=trec k=3")
    parser.add_argument("--rows", type=int, default=20, help="how many are drawn, with seed 0")
    parser.add_argument("--folder", type=Path, default=Path("outputs/check_landscape"), help="what is kept")
    args = parser.parse_args()
    rows = drawn(args.words, args.rows)
    wrong = 0
    for number, (run, row) in enumerate(rows, start=1):
        found = compared(row, run, trained_again(run, RUN, args.folder))
        differs = [f"{name} {one}, again {other}" for name, (one, other) in found.items() if one != other]
        said = f"score {row.score!r}, best {row.best!r}, loss {row.loss!r}, checks: the same"
        print(f"{number} of {len(rows)}: {row.run_id}: {'; '.join(differs) or said}", flush=True)
        wrong += bool(differs)
    print(f"{len(rows) - wrong} of {len(rows)} rows agree bit for bit")
    return 1 if wrong else 0


if __name__ == "__main__":
    run_script(main)
