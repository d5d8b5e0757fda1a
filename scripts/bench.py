"""Measure layertune beside what its users would take instead; write a table, a chart and the numbers: all of
it to results/benchmarks, a part to outputs/benchmark unless --out says where.

make bench MODEL_PATH=<folder of gte_small> DATA_DIR=<folder of data sets>                # results/benchmarks
python scripts/bench.py --tasks sst2_glue --parts tasks --hidden-size 192   # a quick look
python scripts/bench.py --parts profile --out outputs/profile               # where the time of a step goes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from layertune.benchmark.chart import chart
from layertune.benchmark.jobs import PARTS, TASKS, USUAL, Plan, all_arms, folder, jobs_of, run_plan
from layertune.benchmark.lengths import known_tasks
from layertune.benchmark.render import markdown
from layertune.benchmark.result import save_result


def main() -> None:
    """Run the plan and write its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model-path", type=folder, help="folder of gte_small, for the end-to-end part")
    parser.add_argument("--data-dir", type=folder, help="folder of the data sets, for the same")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=known_tasks())
    parser.add_argument("--parts", nargs="+", default=USUAL, choices=PARTS)
    arms = [arm.name for arm in all_arms()]
    parser.add_argument("--arms", nargs="+", default=(), choices=arms, help="the others are compared with a")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--hidden-size", type=int, default=768)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--out", type=Path, help="where to write, without suffix")
    options = vars(parser.parse_args())
    out = options.pop("out")
    if options["arms"] and "a" not in options["arms"]:
        parser.error("--arms needs a, which the others are compared with")
    options |= {key: tuple(options[key]) for key in ("tasks", "parts", "arms")}

    plan = Plan(outputs=Path("outputs/benchmark"), **options)
    if not jobs_of(plan):
        parser.error("nothing to measure: real needs --model-path and --data-dir")
    if out is None:
        out = Path("results/benchmarks/cpu") if plan.whole else plan.outputs / "cpu"

    def save(content: dict[str, Any]) -> None:
        save_result(out, content, markdown)

    content = run_plan(plan, save)
    chart(content, out.with_suffix(".png"))
    print(out.with_suffix(".md").read_text())
    if content["failed"]:
        sys.exit("not measured: " + "; ".join(content["failed"]))


if __name__ == "__main__":
    main()
