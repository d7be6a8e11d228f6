"""Extraction of the final answer from free text.

Sources are the last box, the text after the last "answer is", or the last number. The last mark
wins, since a response with two answers has corrected itself.
"""

from __future__ import annotations

import re

from training.verification.number_words import number_words

# The answer is at the end of a response; the reasoning before may have any length.
READ_CHARACTERS = 20_000
BOX = "\\boxed{"
_MARKED = re.compile(r"(?i)\banswer\b\W{0,4}(?:is\b|:|=)[ \t:*]*([^\n]*)|####[ \t]*([^\n]*)")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+|(?<=\d))(?:/\d+)?%?")
_SIGN_WORD = re.compile(
    r"(?:^|\b(?:is|was|equals?|to|gives?|gets?|makes?|be|of)\s|[=:.!?\n]\s*)(?:minus|negative)\s$",
    re.IGNORECASE,
)
_SIGN_CHARACTERS = 20
_WRAPPED = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ('"', '"'))


def marked_answer(text: str) -> str | None:
    """Return the answer marked as such in the text, or None."""
    text = text[-READ_CHARACTERS:]
    found = [(match.start(), match[1] or match[2] or "") for match in _MARKED.finditer(text)]
    if (box := text.rfind(BOX)) >= 0 and (content := _balanced(text, box + len(BOX))) is not None:
        found.append((box, content))
    answers = [(place, answer) for place, answer in found if answer.strip()]
    if not answers:
        return None
    answer = max(answers)[1]
    if BOX in answer:  # "The answer is \boxed{5}" is a single mark
        answer = _balanced(answer, answer.rfind(BOX) + len(BOX)) or answer
    return strip_markup(answer) or None


def last_number(text: str) -> str | None:
    """Return the last number of a text without a marked answer, in digits or words.

    If digits are present, a number in words counts only in the position of an answer ("is four",
    "Four."): "the two sides" is no answer.
    """
    text = text[-READ_CHARACTERS:]
    words = list(number_words(text))
    digits = [(match.start(), _signed(text, match)) for match in _NUMBER.finditer(text)]
    found = digits + [(number.start, number.digits) for number in words if number.answers]
    found = found or [(number.start, number.digits) for number in words]
    return max(found)[1] if found else None


def _signed(text: str, number: re.Match[str]) -> str:
    """Return the number with a preceding sign word ("minus").

    Between two numbers the sign word is an operation and is ignored.
    """
    sign = _SIGN_WORD.search(text, max(0, number.start() - _SIGN_CHARACTERS), number.start())
    return f"-{number[0]}" if sign and number[0][0].isdigit() else number[0]


def single_line(text: str) -> str | None:
    """Return a text of a single line, a response with only the answer."""
    lines = text[-READ_CHARACTERS:].strip().splitlines()
    return strip_markup(lines[0]) or None if len(lines) == 1 else None


def strip_markup(answer: str) -> str:
    """Remove surrounding emphasis and math delimiters, later sentences, and the full stop."""
    answer = re.split(r"(?<=[^\s.])\.\s", answer.strip(), maxsplit=1)[0].strip()
    before = None
    while before != answer:
        before = answer
        answer = answer.removesuffix(".").strip("*` \t")
        for opening, closing in _WRAPPED:
            inside = answer[len(opening) : -len(closing)]
            if (
                answer.startswith(opening)
                and answer.endswith(closing)
                and len(answer) > len(opening + closing)
            ):
                answer = inside.strip()
    return answer


def _balanced(text: str, start: int) -> str | None:
    """Return the text from start to the matching closing brace, or None."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return None
