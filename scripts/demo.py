"""Train a real 6-layer model in three ways on generated sentences, compare, keep one: `make demo`."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is downloaded: the weights are an installed package

from layertune import load
from layertune.command_line import run_script
from layertune.config.compose import compose_run
from layertune.pipeline import execute
from layertune.records import Store
from layertune.report.figures import plot_record
from layertune.report.summary import against_full, compare

METHODS = ("full", "low_k", "random_k")
ROWS = 500  # few enough that the three do not all end at 100 %
SENTENCE = "the soup was great , but the staff was far from pleasant ."


def main() -> None:
    """Train, compare, draw, keep a model, ask it, say what comes next."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    request = ("model=minilm_l6", "task=demo", "protocol=quick", f"protocol.train_examples={ROWS}")
    request += ("train=fast", "head=standard", "tracking=disabled", *sys.argv[1:])
    runs = [compose_run(*request, f"method={method}") for method in METHODS]
    folder = Path(runs[1].outputs_dir) / "demo"
    runs[1] = dataclasses.replace(runs[1], save=str(folder / runs[1].run_id))
    records = [execute(run, Store(run.results_dir, run.outputs_dir)) for run in runs]
    picture = folder / "similarity.png"
    plot_record(records[1], picture)
    print(f"\n{compare(records)}\n{against_full(records)}\n")
    print(f"similarity of the layers, and each one's score: {picture}")
    print(f"the model of low_k: {runs[1].save}")
    print(f"it says of {SENTENCE!r}: {load(runs[1].save or '').predict([SENTENCE])[0]}")
    print(NEXT)


NEXT = """
Next (. .venv/bin/activate):
  layertune fit minilm_l6 <your file> --text <column> --label <column> --out my-model   your own data
  python run.py model=minilm_l6 task=demo method=high_k protocol=quick   another choice of layers
  python run.py model=bert task=sst2 method=low_k                        the paper's run; needs the model hub
  layertune score <model> <texts> --k 3                                  the layers of your own model"""


if __name__ == "__main__":
    run_script(main)
