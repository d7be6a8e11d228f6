"""The final answer out of free text: what stands in the last box, or after the last "answer is", or
the last number.

The later mark wins: a response that gives two answers has given its last one.
"""

from __future__ import annotations

import re

from training.verification.number_words import number_words

# The end of a response holds its answer; what lies before is reasoning, however long.
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
    """The answer that the text itself marks as such; None if it marks none."""
    text = text[-READ_CHARACTERS:]
    found = [(match.start(), match[1] or match[2] or "") for match in _MARKED.finditer(text)]
    if (box := text.rfind(BOX)) >= 0 and (content := _balanced(text, box + len(BOX))) is not None:
        found.append((box, content))
    answers = [(place, answer) for place, answer in found if answer.strip()]
    if not answers:
        return None
    answer = max(answers)[1]
    if BOX in answer:  # "The answer is \boxed{5}" is one mark, not two
        answer = _balanced(answer, answer.rfind(BOX) + len(BOX)) or answer
    return tidy(answer) or None


def last_number(text: str) -> str | None:
    """The answer of a text that marks none, where a number is asked for: its last number, in digits
    or words.

    A number in words counts beside digits only where an answer stands ("is four", "Four."): "the
    two sides" is no answer.
    """
    text = text[-READ_CHARACTERS:]
    words = list(number_words(text))
    digits = [(match.start(), _signed(text, match)) for match in _NUMBER.finditer(text)]
    found = digits + [(number.start, number.digits) for number in words if number.answers]
    found = found or [(number.start, number.digits) for number in words]
    return max(found)[1] if found else None


def _signed(text: str, number: re.Match[str]) -> str:
    """A number with the sign that stands before it as a word; between two numbers the word is an
    operation.
    """
    sign = _SIGN_WORD.search(text, max(0, number.start() - _SIGN_CHARACTERS), number.start())
    return f"-{number[0]}" if sign and number[0][0].isdigit() else number[0]


def only_line(text: str) -> str | None:
    """The whole text where it is one line: a model that answers with nothing but the answer is
    right to.
    """
    lines = text[-READ_CHARACTERS:].strip().splitlines()
    return tidy(lines[0]) or None if len(lines) == 1 else None


def tidy(answer: str) -> str:
    """Without marks of emphasis or mathematics around it, what follows its first sentence, and the
    full stop.
    """
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
    """From start to the brace that closes the one before it; None if nothing does."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return None
