"""Train a real 6-layer model in three ways on generated sentences and compare: `make demo`, five minutes."""

from __future__ import annotations

import logging
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded: the weights are an installed package

from layertune.command_line import run_script
from layertune.config.compose import compose_run
from layertune.pipeline import execute
from layertune.records import Store
from layertune.report.summary import compare

METHODS = ("full", "low_k", "random_k")


def main() -> None:
    """Train, compare, say what comes next."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    request = ("model=minilm_l6", "task=demo", "protocol=quick", "tracking=disabled", *sys.argv[1:])
    runs = [compose_run(*request, f"method={method}") for method in METHODS]
    records = [execute(run, Store(run.results_dir, run.outputs_dir)) for run in runs]
    print()
    print(compare(records))
    print(NEXT)


NEXT = """
Next (. .venv/bin/activate):
  python run.py model=minilm_l6 task=demo method=high_k protocol=quick   another choice of layers
  python run.py model=minilm_l6 task=demo method=low_k stage=score       the scores alone
  python run.py model=bert task=sst2 method=low_k                        the paper's run; needs the model hub
  python scripts/score_layers.py --help                                  your own model, your own texts"""


if __name__ == "__main__":
    run_script(main)
