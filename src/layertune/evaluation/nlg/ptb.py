"""PTB tokens of E2E text without Java: used, and said so, only where Java cannot run the Stanford tokenizer.

A transcription of the rules that matter for restaurant descriptions. It gives the tokens of Stanford
PTBTokenizer 3.4.1 (`-lowerCase`) for all but one of the 51,426 references of the E2E corpus; on other text
it may differ, which is why the real tokenizer goes first.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
    can(?=not\b) | (?:gon|wan)(?=na\b) | got(?=ta\b)                            # can not, gon na
  | (?:(?!n['’]t\b)[^\W_])+(?=n['’]t\b) | n['’]t\b | ['’](?:s|re|ve|ll|d|m)\b   # do n't, it 's
  | (?<!\S)(?:[ap]\.m\.|e\.g\.|i\.e\.|(?:st|rd|ave|mr|mrs|ms|dr|jr|sr|etc|vs|inc|ltd|co)\.)(?=[\s,]|$)
  | (?<!\S)no\.(?=\s\d)
  | (?<!\w)(?:[A-Z]\.)+(?=[.\s]|$)                                              # Plan B.
  | &(?:amp|lt|gt|quot);
  | \d+(?:[.,:]\d+)*(?:-\d+(?:[.,:]\d+)*)++(?!\w) | (?<!\S)\d+/\d++(?!\w|-[^\W_])  # 20-25, 3/5
  | (?<![^\s£$€(])[-+]?\.?\d++(?:[.,:]\d++)*+(?!\w|-[^\W_])                     # 1,234.50, -5
  | [^\W\d_]+\.(?=,) | [^\W\d_]+,[^\W\d_]+-[^\W\d_]+                            # center., near
  | @?[^\W_]+(?:[.!?][^\W\d_][^\W_]*)*                                          # pub, pub.It, family-friendly
    (?:(?!['’](?:s|re|ve|ll|d|m|t)\b)[-_&'’/@+][^\W_]+(?:[.!?][^\W\d_][^\W_]*)*)*
  | \.\d+ | \.{2,} | [!?]{2,} | -{2,} | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)
_REPLACED = {"£": "#", "€": "$", "¢": "cents", "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-"}
_REPLACED |= {"{": "-lcb-", "}": "-rcb-", "–": "--", "—": "--", "…": "...", '"': "''", "“": "``", "”": "''"}
_REPLACED |= {"‘": "`", "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": "''"}


def tokens(text: str) -> list[str]:
    """Return the lower-case PTB tokens of one text; runs of full stops and of hyphens are one token."""
    return [_normalised(match.group()) for match in _TOKEN.finditer(text)]


def _normalised(token: str) -> str:
    if len(token) > 1 and token[0] in ".-" and len(set(token)) == 1:
        return "..." if token[0] == "." else "--"
    return _REPLACED.get(token, token.lower().replace("’", "'"))
