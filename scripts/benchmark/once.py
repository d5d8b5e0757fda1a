"""What is paid once per run, data set or evaluation: start-up, tokenising, and tables of many records.

A process that is timed from its start imports this file: nothing is imported here that a run does not import.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from layertune.methods.selected import SelectedLayers
from layertune.models import load_tokenizer
from layertune.tasks.encode import encode
from layertune.tasks.rows import concatenate
from layertune.tasks.synthetic import read_synthetic

if TYPE_CHECKING:
    from layertune.models import TaskModel
    from scripts.benchmark.arms import Setting


RECORDS = 5000  # from which tables are made
TRIES = 3  # of tokenising


class FirstStep(SelectedLayers):
    """Print the time before the first step and end the process there."""

    def before_step(self, model: TaskModel, step: int) -> None:
        """Say when it is."""
        print(f"first step at {time.time()}", flush=True)
        os._exit(0)


def start_seconds(setting: Setting) -> float:
    """Return the seconds from the start of a process to its first step: imports, data, model, selection.

    The caches are warm: a first process fills them.
    """
    folders = (f"results_dir={setting.outputs}", f"outputs_dir={setting.outputs}")
    method = ("method=low_k", f"method.kind={__name__}.{FirstStep.__name__}", "train=fast", "force=true")
    code = (
        "import sys; from pathlib import Path; from layertune.config.compose import compose_run; "
        "from layertune.pipeline import execute; from layertune.records import Store; "
        "run = compose_run(*sys.argv[1:]); execute(run, Store(run.results_dir, run.outputs_dir))"
    )
    overrides = (*setting.model, f"task={setting.task}", "tracking=disabled", *folders, *method)
    for _ in range(2):
        start = time.time()
        done = subprocess.run(
            [sys.executable, "-c", code, *overrides], check=True, capture_output=True, text=True
        )
    return float(done.stdout.rpartition("first step at ")[2]) - start


def tables_seconds(setting: Setting, runs: Path = Path("results/runs")) -> float:
    """Return the seconds of `make tables` with as many records as `RECORDS`: those of a folder, and copies of
    them that answer other configurations.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    texts = [path.read_text() for path in sorted(runs.glob("*.json"))]
    if not texts:
        raise FileNotFoundError(f"{runs} holds no records to take as examples")
    results = setting.outputs / "tables"
    shutil.rmtree(results, ignore_errors=True)
    (results / "runs").mkdir(parents=True)
    for number in range(RECORDS):
        text = texts[number % len(texts)]
        own = json.loads(text)
        name = own["run_id"]
        if number >= len(texts):
            text = text.replace(own["identity"]["config_sha256"], f"{number:064x}")
            text = text.replace(name, name := f"copy-{number}")
        (results / "runs" / f"{name}.json").write_text(text)
    words = ["model=gte_small", "train.epochs=3", f"results_dir={results}"]
    start = time.perf_counter()
    subprocess.run([sys.executable, "scripts/report.py", "tables", *words], check=True, capture_output=True)
    return time.perf_counter() - start


def tokenising_rate(setting: Setting) -> float:
    """Return sentences of the generated corpus tokenised per second of one core, in the best of `TRIES`."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    run = setting.run("method=full")
    tokenizer, _ = load_tokenizer(run.model)
    rows = concatenate([read_synthetic("train")] * 10)
    encode(rows.take(np.arange(100)), tokenizer, run.task)
    seconds = []
    for _ in range(TRIES):
        start = time.process_time()
        encode(rows, tokenizer, run.task)
        seconds.append(time.process_time() - start)
    return len(rows) / min(seconds)
