"""Measure on a CUDA device: the arms of bench.py in bf16 and fp32, step times, kernels, many runs at once.

make bench-gpu MODEL_PATH=<folder of gte_small> DATA_DIR=<folder of data sets>
make bench-gpu ARGS="--parts steps at_once"   # some of it: the other parts of the result files stay
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import torch

from layertune.benchmark.chart import chart
from layertune.benchmark.gpu import PARTS, PRECISIONS, OtherMachineError, measure_gpu
from layertune.benchmark.jobs import Plan, folder, run_plan, say_progress
from layertune.benchmark.render import markdown
from layertune.benchmark.result import save_result


def main() -> None:
    """Measure what only a GPU can show, and the arms in both precisions; keep each number as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model-path", type=folder, help="folder of gte_small, for the end-to-end part")
    parser.add_argument("--data-dir", type=folder, help="folder of the data sets, for the same")
    choices = (*PARTS, *PRECISIONS)
    parser.add_argument("--parts", nargs="+", default=choices, choices=choices, help="in this order")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = vars(parser.parse_args())
    out, parts = options.pop("out"), options.pop("parts")
    if not torch.cuda.is_available():
        sys.exit("bench-gpu needs a CUDA device and torch finds none; make bench measures on the CPU.")
    say_progress()
    plan = Plan(
        outputs=Path("outputs/benchmark"),
        workers=1,
        device="cuda",
        real=("trec", "mrpc", "sst2"),
        rounds=3,
        steps=20,
        parts=("real", "tasks", "memory"),
        **options,
    )
    failed: list[str] = []
    for part in parts:
        if part in PRECISIONS:
            failed += _arms(replace(plan, precision=part), out / f"cuda-{part}.json")
            continue
        try:
            failed += measure_gpu(plan, part, out / "cuda-steps.json")
        except OtherMachineError as error:
            sys.exit(f"{error}; name another folder with --out.")
    if failed:
        sys.exit("not measured: " + "; ".join(failed))


def _arms(plan: Plan, path: Path) -> list[str]:
    """Measure the arms side by side; return what failed."""
    content = run_plan(plan, lambda content: save_result(path, content, markdown))
    chart(content, path.with_suffix(".png"))
    return list(content["failed"])


if __name__ == "__main__":
    main()
