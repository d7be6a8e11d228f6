"""Verdicts on responses in free text, and extraction of the final answer.

Sources of the answer are the last box, the text after the last "answer is", or the last number. The
last mark wins, since a response with two answers has corrected itself.

Call `judge_text` in a worker process only, since the libraries may run without end.
"""

from __future__ import annotations

import json
import re

from training.verification.checks import Gym, Mathematics, Outcome, TextCheck, Verdict
from training.verification.number_words import in_digits, number_words
from training.verification.symbols import compare
from training.verification.tasks.gym import scoring_generator

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
_NO_ANSWER = Verdict(Outcome.UNPARSABLE, "no final answer")
# "B", "(B)", "B. Paris"; not "A or B", with two answers.
_LETTER = re.compile(r"\(?([A-Z])\)?(?:[.:)] (?!.*\b(?:or|and)\b).*)?")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def judge_text(check: TextCheck, response: str) -> Verdict:
    """Judge a response by its check."""
    if isinstance(check, Mathematics):
        marked = marked_answer(response)
        answer = in_digits(marked) if marked else last_number(response)
        return compare(check.expected, answer) if answer else _NO_ANSWER
    answer = marked_answer(response) or single_line(response)
    if answer is None:
        return _NO_ANSWER
    if isinstance(check, Gym):
        return _judge_gym(check, answer)
    letter = _LETTER.fullmatch(answer)
    if letter is None or ord(letter[1]) - ord("A") >= check.letters:
        return Verdict(Outcome.UNPARSABLE, "not one of the letters")
    if letter[1] != check.letter:
        return Verdict(Outcome.WRONG, "another letter")
    return Verdict(Outcome.RIGHT)


def _judge_gym(check: Gym, answer: str) -> Verdict:
    """Judge by the generator's scorer; only a full score counts.

    Most generators give partial scores to any text containing the answer.
    """
    if _THOUSANDS.fullmatch(answer):
        answer = answer.replace(",", "")
    try:
        score = scoring_generator(check.generator).score_answer(answer, json.loads(check.entry))
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001 - scorers parse answers unguarded, with int()
        return Verdict(
            Outcome.UNPARSABLE, f"{check.generator} cannot read the answer: {type(error).__name__}"
        )
    return (
        Verdict(Outcome.RIGHT)
        if score >= 1
        else Verdict(Outcome.WRONG, f"scored {score:.2f} by {check.generator}")
    )


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
    digits = []
    for match in _NUMBER.finditer(text):
        # A preceding sign word ("minus") belongs to the number; between two numbers it is an
        # operation and is ignored.
        before = max(0, match.start() - _SIGN_CHARACTERS)
        sign = _SIGN_WORD.search(text, before, match.start())
        is_signed = sign and match[0][0].isdigit()
        digits.append((match.start(), f"-{match[0]}" if is_signed else match[0]))
    found = digits + [(number.start, number.digits) for number in words if number.answers]
    found = found or [(number.start, number.digits) for number in words]
    return max(found)[1] if found else None


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
