"""The parts by name, in the order in which `make fuzz` runs them."""

from __future__ import annotations

from . import Part, data

PARTS: dict[str, Part] = {
    "data": Part(data.run, cases=2000, share=60),
}
