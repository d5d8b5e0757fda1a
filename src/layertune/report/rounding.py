"""The one rounding of every number that is printed: half up, as tables of papers do."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal


def as_printed(number: float, decimals: int) -> float:
    """Round half up, as a table prints: 83.05 is 83.1 (floats such as 83.0499999999 included)."""
    return float(Decimal(repr(round(number, 9))).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def printed(number: float, decimals: int, sign: str = "") -> str:
    """Return a number as text; `sign` "+" writes that of positive numbers too; nothing is "-0.0"."""
    return f"{as_printed(number, decimals) + 0.0:{sign}.{decimals}f}"
