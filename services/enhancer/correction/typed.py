"""Typed parts of a message; all other text is pasted and stays as it is.

A few short lines are typed as a whole. Of a longer message only the first and the last line may be
typed, above or below pasted text. The limits follow from `benchmarks/enhancer.py`.
"""

import re
from dataclasses import dataclass

from services.enhancer.correction.protected import is_code_line

MAX_LINES = 3
MAX_CHARACTERS = 200
# Limit of a message that begins with a small letter and asks for something.
MAX_HASTY_CHARACTERS = 500
# Headings, rulers, tables, fences, images, quotes and directives.
MARKUP = re.compile(r"\s*(?:#{1,6}\s|[-=~^*_#+]{3}|```|\||>|<|!?\[|\.\.\s|:\w)")
LIST_ITEM = re.compile(r"\s*(?:[-*+•>#|]|\d{1,3}[.)]|[a-zA-Z][.)])\s")


@dataclass(frozen=True)
class TypedPart:
    """Characters `start` to `end` (exclusive) of a message.

    `must_ask` is true if the part counts as typed only when it asks for something.
    """

    start: int
    end: int
    must_ask: bool


def typed_parts(text: str) -> tuple[TypedPart, ...]:
    """Return the parts of a message that a person typed, judged by length and shape, in order."""
    lines = text.strip("\n").split("\n")
    written = [line for line in lines if line.strip()]
    if len(written) <= MAX_LINES and not any(MARKUP.match(line) for line in written):
        if len(text) <= MAX_CHARACTERS:
            return (TypedPart(0, len(text), must_ask=False),)
        if len(text) <= MAX_HASTY_CHARACTERS and lines[0][:1].islower() and len(lines) == 1:
            return (TypedPart(0, len(text), must_ask=True),)
    if len(lines) == 1:
        return ()
    parts = []
    first, last = lines[0], lines[-1]
    if _is_words(first) and (first.rstrip().endswith(":") or _is_gap_or_code(lines[1])):
        start = len(text) - len(text.lstrip("\n"))
        parts.append(TypedPart(start, start + len(first), must_ask=True))
    # A pasted text also ends with requests ("Please report bugs to"), but hardly in small letters.
    is_hasty = last[:1].islower() or last.rstrip().endswith("?")
    if is_hasty and _is_words(last) and _is_gap_or_code(lines[-2]):
        end = len(text.rstrip("\n"))
        parts.append(TypedPart(end - len(last), end, must_ask=True))
    return tuple(parts)


def _is_words(line: str) -> bool:
    return len(line) <= MAX_CHARACTERS and not (
        MARKUP.match(line) or LIST_ITEM.match(line) or is_code_line(line)
    )


def _is_gap_or_code(line: str) -> bool:
    return not line.strip() or (is_code_line(line) and not MARKUP.match(line))
