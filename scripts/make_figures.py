"""Draw the figures of a backbone from the records, as PNG and SVG: `make figures MODEL=bert`, or

python scripts/make_figures.py --model gte_small --set train.epochs=3

Exit code 2: the request was wrong (one sentence says why).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from layertune.command_line import run_script
from layertune.report.figures.write import write_figures
from layertune.report.render.request import Request


def main(args: argparse.Namespace) -> None:
    """Draw and print what was drawn."""
    protocol, overrides = args.protocol or None, tuple(args.set.split())
    asked = Request(args.model, args.lm, args.train, args.grid, protocol, args.readout, overrides)
    drawn = write_figures(asked, Path(args.results))
    for one in drawn:
        print(f"{one.name:<16} {one.coverage}".rstrip())
    print(f"written: {sum(len(one.files) for one in drawn)} pictures in {drawn[0].files[0].parent}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in vars(Request()).items():
        if name != "overrides":
            parser.add_argument(f"--{name}", default=default or "")
    parser.add_argument("--set", default="", help="overrides of every run, such as train.epochs=3")
    parser.add_argument("--results", default="results", help="the results_dir of the runs")
    run_script(lambda: main(parser.parse_args()))
