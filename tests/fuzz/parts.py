"""The parts by name, in the order in which `make fuzz` runs them."""

from __future__ import annotations

from . import Part, data, kill, records, requests, workers

PARTS: dict[str, Part] = {
    "requests": Part(requests.run, cases=4000, share=12),
    "data": Part(data.run, cases=2000, share=60),
    "records": Part(records.run, cases=2000, share=12),
    "kill": Part(kill.run, cases=30, share=1, slow=True),
    "workers": Part(workers.run, cases=24, share=2, slow=True),
}
