"""What an error says, and what led to it."""

from __future__ import annotations

import pytest

from layertune.errors import ConfigError, in_words, message_of, said_in, with_causes


def raised() -> Exception:
    """Return an error that was raised from one that was raised while a third was handled."""
    try:
        try:
            try:
                raise ConnectionError("no route")
            except ConnectionError:
                raise KeyError("file")  # noqa: B904
        except KeyError as error:
            raise ValueError("no data") from error
    except ValueError as error:
        return error


def test_all_that_led_to_an_error_is_found_and_the_first_cause_comes_last() -> None:
    assert [type(one) for one in with_causes(raised())] == [ValueError, KeyError, ConnectionError]


def test_causes_in_a_circle_come_once_each() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__context__ = two, one
    assert with_causes(one) == [one, two]


@pytest.mark.parametrize(
    ("error", "message", "words"),
    [
        (ValueError("a\n  b\x00"), "a b\\x00", "ValueError: a b\\x00"),
        (MemoryError(), "MemoryError", "MemoryError"),
        (ValueError("x" * 400), "x" * 300 + " …", "ValueError: " + "x" * 300 + " …"),
    ],
)
def test_an_error_is_said_in_one_line(error: Exception, message: str, words: str) -> None:
    assert (message_of(error), in_words(error)) == (message, words)


def test_an_error_speaks_of_what_was_typed_and_leaves_alone_what_was_given() -> None:
    words = {"model=": "", "save": "--out", "method=": "--method "}
    with pytest.raises(ConfigError) as found, said_in(words):
        raise ConfigError("save=x with method=full: /data/model=bert/rev.csv has no column 'method=x'.")
    assert str(found.value) == "save=x with --method full: /data/model=bert/rev.csv has no column 'method=x'."
