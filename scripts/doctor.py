"""Say what this machine can run: `make doctor`, and `make doctor-cuda` for its GPU (30 seconds).

python scripts/doctor.py
python scripts/doctor.py cuda
"""

from __future__ import annotations

import sys

from layertune.command_line import run_script
from layertune.doctor import cuda_findings, findings


def main() -> None:
    """Print the findings as they come."""
    for what, there, detail in cuda_findings() if sys.argv[1:] == ["cuda"] else findings():
        print(f"{'ok' if there else '--'}  {what:<14} {detail}", flush=True)


if __name__ == "__main__":
    run_script(main)
