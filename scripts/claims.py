"""Judge the paper's claims on its own tables and on the records: `make claims MODEL=bert`, or

python scripts/claims.py --model gte_small --set train.epochs=3
python scripts/claims.py --model bert --readout best --json

Prints the listing (or JSON) and writes the listing to <results>/claims/<model>.md. Exit code 2: the request
was wrong (one sentence says why).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from layertune.command_line import run_script
from layertune.config.compose import CONFIG_DIR
from layertune.config.files import write_atomic
from layertune.report.choice import judge_choice
from layertune.report.claims import judge_all
from layertune.report.claims_text import to_json, to_text
from layertune.report.figures.write import FOLDERS
from layertune.report.index import RecordIndex
from layertune.report.paper import PAPER_FOLDER, load_paper_tables
from layertune.report.paper_claims import load_claims
from layertune.report.render.request import Request, requests


def main(args: argparse.Namespace) -> None:
    """Judge, print and write."""
    overrides = tuple(args.set.split())
    asked = Request(args.model, args.lm, args.train, args.grid, args.protocol or None, overrides=overrides)
    (request,) = requests(asked, args.readout, None)
    results = Path(args.results)
    index = RecordIndex.read(*(results / name for name in FOLDERS))
    folder = CONFIG_DIR.parent / PAPER_FOLDER
    judged = judge_all(load_claims(folder), load_paper_tables(folder), request, index)
    choice = judge_choice(index, request.model)
    text = to_text(judged, request, choice, index.damaged)
    write_atomic(results / "claims" / f"{request.model}.md", text.encode())
    print(to_json(judged, request, choice) if args.json else text, end="")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in vars(Request()).items():
        if name != "overrides":
            parser.add_argument(f"--{name}", default=default or "")
    parser.add_argument("--set", default="", help="overrides of every run, such as train.epochs=3")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--results", default="results", help="the results_dir of the runs")
    run_script(lambda: main(parser.parse_args()))
