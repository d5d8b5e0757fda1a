"""One run, or a sweep, from the command line.

python run.py model=bert task=sst2 method=low_k
python run.py -m model=bert task=sst2,qnli method=low_k,high_k 'method.k=range(1,12)' seed=0,42,100

Exit codes: 0 done (or already done), 1 the run failed (its record says why), 2 the request was wrong (nothing
is written), 75 interrupted and resumable. A sweep goes on after a run that fails or is refused, and ends
with 1.
"""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach `run_command_line`, which says them in one sentence

import hydra

from layertune.command_line import job, run_command_line
from layertune.config import RunConfig
from layertune.config.compose import register_schema
from layertune.records import Store
from layertune.report.recipe import objective
from layertune.report.summary import summarise

register_schema()


@hydra.main(config_path="configs", config_name="config", version_base="1.3")
def main(cfg: Any) -> float | None:
    """Check the request, then run it; the score is what an optimising sweeper maximises."""
    with job():
        run = RunConfig.from_hydra(cfg)

        from layertune.pipeline import execute  # heavy imports only after the request is known to be right

        record = execute(run, Store(run.results_dir, run.outputs_dir))
        print(summarise(record))
        return objective(run, record)
    return None


if __name__ == "__main__":
    sys.exit(run_command_line(main))
