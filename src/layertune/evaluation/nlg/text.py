"""The texts that the E2E scorers get: one clean line each, checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layertune.errors import ConfigError

END_OF_TEXT = "<|endoftext|>"


def clean(text: str) -> str:
    """Return one line of words: cut at the end-of-text token, every run of white space made one space.

    Line separators (carriage return, U+0085, U+2028 ...) would split a text inside the scorers and shift
    every later item.
    """
    return " ".join(text.split(END_OF_TEXT, 1)[0].split())


def checked(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Return clean copies of outputs and references.

    Raises:
        ConfigError: no items, unequal counts, an item without references, something that is not text. An
            empty output is legal; an empty reference pads a list and is left out.
    """
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise ConfigError(
            "the hypotheses must be a list of strings, the references a list of lists of strings"
        )
    if len(hypotheses) != len(references):
        raise ConfigError(f"{len(hypotheses)} hypotheses for {len(references)} items with references")
    if not len(hypotheses):
        raise ConfigError("nothing to score: no hypotheses")
    pairs = enumerate(zip(hypotheses, references, strict=True), start=1)
    groups = [_checked_group(f"item {number}", text, group) for number, (text, group) in pairs]
    return [clean(text) for text in hypotheses], groups


def as_text(scores: Mapping[str, float | str | None]) -> str:
    """Return one line per score as papers print them: NIST and CIDEr as they are, the others times 100."""
    lines = []
    for name, value in scores.items():
        if isinstance(value, float):
            value = f"{value:.4f}" if "nist" in name or name == "cider" else f"{100 * value:.2f}"
        lines.append(f"{name:20} {value}")
    return "\n".join(lines)


def _checked_group(item: str, hypothesis: str, group: Sequence[str]) -> list[str]:
    if (
        not isinstance(group, Sequence)
        or isinstance(group, str)
        or not all(isinstance(text, str) for text in (hypothesis, *group))
    ):
        raise ConfigError(f"{item}: the hypothesis must be a string and its references a list of strings")
    try:
        "".join((hypothesis, *group)).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{item} holds half a surrogate pair, which is not text") from error
    references = [" ".join(reference.split()) for reference in group]
    # Taken as a reference of length 0, "" would undo the brevity penalty.
    if not any(references):
        raise ConfigError(f"{item} has no reference" + (", only empty ones" if references else ""))
    return [reference for reference in references if reference]
