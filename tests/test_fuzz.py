"""A small share of the fuzzed inputs; `make fuzz` runs the whole."""

from __future__ import annotations

import pytest
from fuzz.parts import PARTS


@pytest.mark.parametrize(
    "part",
    [pytest.param(part, id=name, marks=[pytest.mark.slow] * part.slow) for name, part in PARTS.items()],
)
def test_a_share_of_the_fuzzed_inputs_breaks_nothing(part):
    assert part.run(part.share, seed=0) == []
