"""What the records say: `make tables`, `make claims`, `make plan`, `make figures`, and records side by side.

python scripts/report.py tables model=gte_small train.epochs=3   also compare=roberta, readout=last,best
python scripts/report.py claims model=bert readout=best --json   which of the paper's claims hold
python scripts/report.py figures model=gte_small                 all figures, as PNG and SVG
python scripts/report.py plan table=1 task=trec,cr seed=0        what is still to be run, as a shell script
python scripts/report.py landscape                               where rules land among all sets of layers
python scripts/report.py compare --means results/runs/*.json     records side by side; --precisions, --modes

Words are those of run.py. Exit codes: 1 with --strict if a cell is not done, 2 if the request was wrong (one
sentence says why).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from layertune.command_line import run_script
from layertune.config.files import write_atomic
from layertune.config.groups import looking_into
from layertune.errors import ConfigError
from layertune.landscape.claims import judges
from layertune.landscape.page import write_landscapes
from layertune.records.store import read_files
from layertune.report.claims import judge_all
from layertune.report.claims_text import to_json, to_text
from layertune.report.figures.write import write_figures
from layertune.report.index import RecordIndex
from layertune.report.paper import the_paper
from layertune.report.paper_claims import load_claims
from layertune.report.plan import interpreter, lines, make_plan, read_index, store_of
from layertune.report.render.write import renew_page, write_comparison, write_tables
from layertune.report.request import read_requests, read_words
from layertune.report.summary import compare as compare_runs
from layertune.report.summary import compare_means, compare_sides, three_numbers
from layertune.report.values import table_values

FEW = 5  # stale records are named, more are counted


def tables(args: argparse.Namespace) -> int:
    """Write the tables and the page; name what is not used."""
    sides, results = read_requests(args.words, 2, args.config_dir)
    written = write_comparison(*sides, results) if len(sides) > 1 else write_tables(*sides, results)
    for table, done, cells in written.coverage:
        print(f"{table:<8} {done:>4} of {cells} cells done")
    print(f"written: {written.page} and {len(written.files)} files in {written.files[0].parent}")
    _name_stale(written.index, {side.model for side in sides} | {side.lm for side in sides}, results)
    if written.hint:
        print(
            f"records of {sides[0].model} that no table shows were made with other settings: {written.hint}"
        )
    return 1 if args.strict and written.gaps else 0


def claims(args: argparse.Namespace) -> None:
    """Judge the claims, print the listing (or JSON) and write it."""
    (request,), results = read_requests(args.words, config_dir=args.config_dir)
    index = RecordIndex.read(*(results / name for name in ("runs", "scores")))
    judged = judge_all(load_claims(), the_paper(), request, index, judges(results))
    records = table_values(request.table("table1"), index, request.readout).records
    text = to_text(judged, request, index.damaged, three_numbers(records, the_paper()))
    write_atomic(results / "claims" / f"{request.folder}.md", text.encode())
    print(to_json(judged, request) if args.json else text, end="")
    renew_page(results)
    _name_stale(index, {request.model, request.lm}, results)


def figures(args: argparse.Namespace) -> None:
    """Draw and say what was drawn."""
    (request,), results = read_requests(args.words, config_dir=args.config_dir)
    drawn = write_figures(request, results)
    renew_page(results)
    for one in drawn:
        print(f"{one.name:<16} {one.coverage}".rstrip())
    files = [path for one in drawn for path in one.files]
    folders = ", ".join(sorted({str(path.parent) for path in files}))
    print(f"written: {len(files)} pictures{f' in {folders}' if files else ''}")


def plan(args: argparse.Namespace) -> None:
    """Print the plan."""
    found = make_plan(read_words(args.words), read_index(args.words), args.device)
    print("\n".join(lines(found, interpreter())))


def landscape(args: argparse.Namespace) -> None:
    """Write tables, figures and the page of all landscapes."""
    files = write_landscapes(store_of(args.words).folders[0].parent)
    print(f"written: {len(files)} files, the last {files[-1]}")


def compare(args: argparse.Namespace) -> None:
    """Print records side by side; a damaged one is named and left out."""
    records, _ = read_files(map(Path, args.files))
    if not records:
        raise ConfigError("none of these files is a record.")
    found = list(records.values())
    if args.differ is not None:
        print(compare_sides(found, args.differ))
    else:
        print(compare_means(found) if args.means else compare_runs(found))


def main(args: argparse.Namespace) -> int | None:
    """Do what was asked, with the methods of a folder of one's own among the others."""
    with looking_into(filter(None, [getattr(args, "config_dir", None)])):
        code: int | None = args.do(args)
    return code


def _name_stale(index: RecordIndex, models: set[str], results: Path) -> None:
    """Name the stale records of some models; many are counted by task, with the command that marks each."""
    stale = [record for record in index.stale() if record.spec.model in models]
    for model in sorted({record.spec.model for record in stale}):
        found = [record for record in stale if record.spec.model == model]
        tasks = Counter(record.spec.task for record in found)
        told = ", ".join(f"{count} of {task}" for task, count in sorted(tasks.items()))
        if len(found) <= FEW:
            told = ", ".join(record.run_id for record in found)
        print(
            f"stale, made at older versions and not used: {len(found)} records of {model} ({told}); "
            f"python scripts/report.py compare {results / 'runs'}/{model}-*.json marks each",
            file=sys.stderr,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="tables|claims|figures|plan|landscape|compare")
    for do in (tables, claims, figures, plan, landscape):
        one = commands.add_parser(do.__name__, help=(do.__doc__ or "").partition("\n")[0])
        one.set_defaults(do=do)
        one.add_argument(
            "--config-dir", default="", metavar="FOLDER", help="of methods of your own: rows in every table"
        )
        one.add_argument("words", nargs="*", help="key=value, such as model=gte_small train.epochs=3")
        if do is tables:
            one.add_argument("--strict", action="store_true", help="exit with 1 if a cell is not done")
        if do is claims:
            one.add_argument("--json", action="store_true", help="print JSON")
        if do is plan:
            one.add_argument("--device", help="hours of this device: part of a recorded name, or none")
    one = commands.add_parser("compare", help=(compare.__doc__ or "").partition("\n")[0])
    one.set_defaults(do=compare)
    one.add_argument("files", nargs="+", help="records, such as results/runs/*.json")
    ways = one.add_mutually_exclusive_group()
    ways.add_argument("--means", action="store_true", help="one row per method, over its seeds")
    sides = {"modes": ("train", "published beside fast"), "precisions": ("precision", "fp32 beside bf16")}
    for name, (differ, told) in sides.items():
        ways.add_argument(
            f"--{name}", dest="differ", action="store_const", const=differ, help=f"{told}, with a paired test"
        )
    return parser


if __name__ == "__main__":
    run_script(lambda: main(_parser().parse_args()))
