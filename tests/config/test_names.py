"""A name in a table, or a dotted path to one's own; anything else is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from layertune.config.names import resolve_name
from layertune.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("nope", "known: len"),
        ("nowhere.at.all", "nowhere"),
        ("os.nothing", "nothing"),
        ("os.path", "module"),
        ("..x", "imported"),
        ("fails_on_import.scorer", "ZeroDivisionError"),
    ],
)
def test_what_is_neither_known_nor_callable_is_refused(
    name: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fails_on_import.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="scorer") as error:
        resolve_name(name, {"len": len}, "method.scorer")
    assert word in str(error.value)


def test_a_known_name_and_a_dotted_path_are_found() -> None:
    assert resolve_name("size", {"size": len}, "method.scorer") is len
    assert resolve_name("os.path.join", {"size": len}, "method.scorer").__name__ == "join"
