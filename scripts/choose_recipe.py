"""Choose rate, epochs and batch size from the records of a search and write configs/recipe/<model>.yaml.

python scripts/choose_recipe.py bert --grid fair
python scripts/choose_recipe.py gte_small --grid tuned --train fast --set "protocol.train_examples=1000"

A best rate at the edge of the list (grid=tuned) is not written: its line says which rate to try next.
Exit code 2: no choice can be made, and one sentence says why.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from layertune.command_line import run_script
from layertune.config.groups import CONFIG_DIR
from layertune.config.rates import GRIDS
from layertune.report.recipe import choose, search_records, write_recipe


def main(args: argparse.Namespace) -> None:
    """Read, choose, write, print."""
    records = search_records(Path(args.outputs) / "records", args.model)
    if args.method:
        records = [record for record in records if record.spec.method in args.method.split(",")]
    found, left_out = choose(records, args.model, args.grid, args.train, args.set.split())
    path = Path(args.recipes) / f"{args.model}.yaml"
    write_recipe(path, [one for one in found if one.untried is None])
    for one in found:
        rate, epochs, batch_size = one.values
        edge = f"; at the edge, not written: try {one.untried:g}" if one.untried else ""
        print(
            f"{one.task:<14} {one.method:<16} {one.grid} rate {rate:g}, {epochs} epochs, batch {batch_size}, "
            f"{100 * one.score:.1f} (seeds {', '.join(map(str, one.seeds))}; {len(one.records)} compared)"
            + edge
        )
    if left_out:
        print(f"left out (other settings, a seed not all have, failed): {', '.join(left_out)}")
    print(f"written: {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the model's name, as in model=bert")
    parser.add_argument("--method", help="one or several, by commas, of a search under way; default: all")
    parser.add_argument("--grid", choices=GRIDS, help="default: the one the records are from")
    parser.add_argument("--train", choices=("published", "fast"), default="published")
    parser.add_argument("--set", default="", help="further overrides that the runs were made with, in quotes")
    parser.add_argument("--outputs", default="outputs", help="the outputs_dir of the search")
    parser.add_argument("--recipes", default=str(CONFIG_DIR / "recipe"), help="folder of the recipes")
    run_script(lambda: main(parser.parse_args()))
