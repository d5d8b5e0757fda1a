"""Any terminal will do: what its encoding lacks is printed in other characters instead of ending the work."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

_INSTEAD = {"█": "#", "±": "+-", "×": "x", "·": ".", "–": "-", "—": "-", "−": "-", "…": "...", "‡": "++"}
_INSTEAD |= {"→": "->", "§": "S.", "£": "GBP"}


def any_terminal() -> None:
    """Let stdout and stderr print all characters, whatever their encoding (ASCII, cp1252, ...)."""
    codecs.register_error("layertune", _other_characters)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="layertune")


def _other_characters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_INSTEAD.get(character) or _ascii(character) for character in missing), error.end


def _ascii(character: str) -> str:
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode() or "?"
