"""Measure layertune beside what its users would take instead; write a page, a chart and the numbers.

make bench MODEL_PATH=<folder of gte_small> DATA_DIR=<folder of data sets>   # to results/benchmarks
make bench ARGS="--parts tasks --tasks sst2_glue --hidden-size 192"    # a quick look: outputs/benchmark
make bench ARGS="--parts profile --out outputs/profile"                      # where the time of a step goes
make bench-gpu MODEL_PATH=... DATA_DIR=...                                   # on a CUDA device
make bench-gpu ARGS="--parts steps at_once"    # some of it: the other parts of the result files stay
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from layertune.command_line import run_script
from layertune.errors import ConfigError
from scripts.benchmark import gpu, jobs
from scripts.benchmark.arms import ARMS
from scripts.benchmark.lengths import KNOWN
from scripts.benchmark.page import chart, save_result
from scripts.benchmark.project import BASE


def main(words: Sequence[str] | None = None) -> None:
    """Measure what the words ask for; what failed is in the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    # what is not said is left to BenchmarkPlan
    cpu = commands.add_parser("cpu", help="make bench", argument_default=argparse.SUPPRESS)
    cuda = commands.add_parser("cuda", help="make bench-gpu", argument_default=argparse.SUPPRESS)
    for command in (cpu, cuda):
        command.add_argument("--model-path", type=_folder, help="of gte_small, for the end-to-end part")
        command.add_argument("--data-dir", type=_folder, help="folder of the data sets, for the same")
    cpu.add_argument("--tasks", nargs="+", choices=sorted(KNOWN), help="whose lengths are projected on")
    cpu.add_argument("--real", nargs="+", help="whose data are trained on, of the folder of data sets")
    cpu.add_argument("--projected", action="store_true", help="also on these: minutes instead of hours")
    cpu.add_argument("--parts", nargs="+", choices=jobs.PARTS)
    cpu.add_argument("--arms", nargs="+", choices=ARMS, help=f"the others are compared with {BASE}")
    for number in ("rounds", "steps", "hidden-size", "workers"):
        cpu.add_argument(f"--{number}", type=int)
    cpu.add_argument("--precision", choices=gpu.PRECISIONS)
    cpu.add_argument("--out", type=Path, default=None, help="where to write, without suffix")
    parts = (*gpu.PARTS, *gpu.PRECISIONS)
    cuda.add_argument("--parts", nargs="+", default=parts, choices=parts, help="in this order")
    cuda.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder")
    cpu.set_defaults(measure=lambda **options: _on_cpu(cpu, **options))
    cuda.set_defaults(measure=_on_cuda)

    options = vars(parser.parse_args(words))
    jobs.say_progress()
    failed = options.pop("measure")(**options)
    if failed:
        sys.exit("not measured: " + "; ".join(failed))


def _on_cpu(parser: argparse.ArgumentParser, out: Path | None, **options: Any) -> list[str]:
    """Measure the arms on the CPU; only everything, as usual, goes to the results in the repository."""
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    plan = jobs.BenchmarkPlan(outputs=Path("outputs/benchmark"), **options)
    if plan.chosen[0].name != BASE:
        parser.error(f"--arms needs {BASE}, which the others are compared with")
    if not jobs.jobs_of(plan):
        parser.error("nothing to measure: real needs --model-path and --data-dir")
    out = out or (Path("results/benchmarks") if plan.whole else plan.outputs) / "cpu"
    failed = _side_by_side(plan, out)
    print(out.with_suffix(".md").read_text())
    return failed


def _on_cuda(parts: Sequence[str], out: Path, **options: Any) -> list[str]:
    """Measure what only a GPU can show, and the arms in both precisions; keep each number as it is there."""
    if not torch.cuda.is_available():
        raise ConfigError(
            "bench-gpu needs a CUDA device and torch finds none; make bench measures on the CPU."
        )
    plan = jobs.BenchmarkPlan(
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
        if part in gpu.PRECISIONS:
            failed += _side_by_side(replace(plan, precision=part), out / f"cuda-{part}")
        else:
            failed += gpu.measure_gpu(plan, part, out / "cuda-steps.json")
    return failed


def _side_by_side(plan: jobs.BenchmarkPlan, out: Path) -> list[str]:
    """Measure the arms and write their page and chart; return what failed."""
    content = jobs.run_plan(plan, lambda content: save_result(out, content))
    chart(content, out.with_suffix(".png"))
    return list(content["failed"])


def _folder(name: str) -> str:
    """Return the name of a folder that is there."""
    if not Path(name).is_dir():
        raise argparse.ArgumentTypeError(f"{name} is not a folder")
    return name


if __name__ == "__main__":
    run_script(main)
