"""Say what this machine can run: `make doctor` or `python scripts/doctor.py`."""

from __future__ import annotations

from layertune.command_line import run_script
from layertune.doctor import findings


def main() -> None:
    """Print the findings as they come."""
    for what, there, detail in findings():
        print(f"{'ok' if there else '--'}  {what:<14} {detail}", flush=True)


if __name__ == "__main__":
    run_script(main)
