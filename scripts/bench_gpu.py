"""Measure on a CUDA device: the arms of bench.py in fp32 and bf16, step times, kernels, many runs at once.

make bench-gpu MODEL_PATH=<folder of gte_small> DATA_DIR=<folder of data sets>
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from layertune.benchmark.gpu import measure_gpu
from layertune.benchmark.jobs import Plan, run_plan
from layertune.benchmark.render import chart, markdown


def main() -> None:
    """Run the arms in both precisions, then what only a GPU can show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model-path", help="folder of gte_small, for the end-to-end part")
    parser.add_argument("--data-dir", help="folder of the data sets, for the same")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"))
    options = vars(parser.parse_args())
    out: Path = options.pop("out")
    if not torch.cuda.is_available():
        sys.exit("bench-gpu needs a CUDA device and torch finds none; make bench measures on the CPU.")
    out.mkdir(parents=True, exist_ok=True)
    for precision in ("fp32", "bf16"):
        path = out / f"cuda-{precision}"
        plan = Plan(
            outputs=Path("outputs/benchmark"),
            workers=1,
            device="cuda",
            precision=precision,
            real=("trec", "mrpc", "sst2"),
            rounds=3,
            steps=20,
            **options,
        )

        def save(content: dict[str, Any], path: Path = path) -> None:
            path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
            path.with_suffix(".md").write_text(markdown(content))

        chart(run_plan(plan, save), path.with_suffix(".png"))
    (out / "cuda-steps.json").write_text(json.dumps(measure_gpu(plan), indent=1) + "\n")


if __name__ == "__main__":
    main()
