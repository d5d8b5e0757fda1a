"""Print what is still to be run: commands, hours, peak memory, longest first. `make plan TABLE=1`, or

python scripts/plan.py table=table1 model=gte_small train.epochs=3
python scripts/plan.py table=1 task=trec,cr method=low_k,full seed=0 --device H200

Words are those of `python run.py -m hydra/sweeper=table`, which runs what is printed here; `lm=` names the
language model of Table 3 and Figure 3. Without `table=` all tables and figures are planned. The output is a
shell script: a command per line, everything else is a comment. Exit code 2: the request was wrong.
"""

from __future__ import annotations

import argparse

from layertune.command_line import run_script
from layertune.report.plan import lines, make_plan, read_index, read_words


def main(args: argparse.Namespace) -> None:
    """Read the words and the records, print the plan."""
    plan = make_plan(read_words(args.words), read_index(args.words), args.device)
    print("\n".join(lines(plan)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="key=value, such as table=table1 model=gte_small")
    parser.add_argument("--device", help="hours of this device: part of a recorded name, or none")
    run_script(lambda: main(parser.parse_args()))
