"""Write the ten tables of a backbone from the records: `make tables MODEL=bert`, or

python scripts/make_tables.py --model gte_small --set train.epochs=3
python scripts/make_tables.py --model bert --compare roberta
python scripts/make_tables.py --model bert --readout last,best

The last two write two backbones, or two read-outs, side by side. Exit codes: 1 with --strict if a cell is not
done, 2 if the request was wrong (one sentence says why).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from layertune.command_line import run_script
from layertune.report.render.request import Request, requests
from layertune.report.render.write import write_comparison, write_tables


def main(args: argparse.Namespace) -> int:
    """Write, print, and return the exit code."""
    overrides = tuple(args.set.split())
    asked = Request(args.model, args.lm, args.train, args.grid, args.protocol or None, overrides=overrides)
    sides = requests(asked, args.readout, args.compare or None)
    results = Path(args.results)
    written = write_comparison(*sides, results) if len(sides) > 1 else write_tables(*sides, results)
    for table, done, cells in written.coverage:
        print(f"{table:<8} {done:>4} of {cells} cells done")
    print(f"written: {written.page} and {len(written.files)} files in {written.files[0].parent}")
    if written.hint:
        print(f"records of {args.model} that no table shows were made with other settings: {written.hint}")
    return 1 if args.strict and written.gaps else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in vars(Request()).items():
        if name != "overrides":
            parser.add_argument(f"--{name}", default=default or "")
    parser.add_argument("--set", default="", help="overrides of every run, such as train.epochs=3")
    parser.add_argument("--compare", default="", help="a second model, side by side with the first")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a cell is not done")
    parser.add_argument("--results", default="results", help="the results_dir of the runs")
    run_script(lambda: main(parser.parse_args()))
