"""`python -m tests.fuzz [part ...] [--cases N] [--seed 0]`: prints each failure; exit code 1 if any."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the helpers of the tests, as pytest finds them

from .parts import PARTS


def main() -> int:
    """Run the parts that were named, or all, and say how many of their cases failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS) or 'none yet'}; none named: all")
    parser.add_argument("--cases", type=int, help="how many of each part (default: what make fuzz runs)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if unknown := [name for name in given.parts if name not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    failed = False
    for name in given.parts or PARTS:
        cases, start = given.cases or PARTS[name].cases, time.monotonic()
        failures = PARTS[name].run(cases, given.seed)
        for line in failures:
            print(f"{name}: {line}")
        print(
            f"{name}: {len(failures)} of {cases:,} cases failed ({time.monotonic() - start:.0f} s)",
            flush=True,
        )
        failed = failed or bool(failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
