"""The parts by name, in the order in which `make fuzz` runs them."""

from __future__ import annotations

from . import Part

PARTS: dict[str, Part] = {}
