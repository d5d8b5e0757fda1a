"""A small share of the fuzzed inputs; `make fuzz` runs the whole."""

from __future__ import annotations

import pytest
from fuzz.parts import PARTS


@pytest.mark.parametrize("part", PARTS.values(), ids=list(PARTS))
def test_a_share_of_the_fuzzed_inputs_breaks_nothing(part):
    assert part.run(part.share, seed=0) == []
