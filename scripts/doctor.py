"""Say what this machine can run: `make doctor` or `python scripts/doctor.py`."""

from __future__ import annotations

from layertune.doctor import findings

for what, there, detail in findings():
    print(f"{'ok' if there else '--'}  {what:<14} {detail}", flush=True)
