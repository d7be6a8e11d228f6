"""What a response in free text is worth. Only ever called in a worker process, because libraries
that it asks may take for ever.
"""

from __future__ import annotations

import json
import re

from training.verification.answers import last_number, marked_answer, only_line
from training.verification.checks import Choice, Gym, Mathematics, TextCheck
from training.verification.number_words import in_digits
from training.verification.symbols import compare
from training.verification.tasks.gym import opened
from training.verification.verdict import Outcome, Verdict

_NO_ANSWER = Verdict(Outcome.UNPARSABLE, "no final answer")
# "B", "(B)", "B. Paris"; not "A or B", which is two answers.
_LETTER = re.compile(r"\(?([A-Z])\)?(?:[.:)] (?!.*\b(?:or|and)\b).*)?")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")


def judge_text(check: TextCheck, response: str) -> Verdict:
    """By the kind of check."""
    if isinstance(check, Mathematics):
        marked = marked_answer(response)
        answer = in_digits(marked) if marked else last_number(response)
        return compare(check.expected, answer) if answer else _NO_ANSWER
    answer = marked_answer(response) or only_line(response)
    if answer is None:
        return _NO_ANSWER
    return _chosen(check, answer) if isinstance(check, Choice) else _solved(check, answer)


def _chosen(check: Choice, answer: str) -> Verdict:
    letter = _LETTER.fullmatch(answer)
    if letter is None or ord(letter[1]) - ord("A") >= check.letters:
        return Verdict(Outcome.UNPARSABLE, "not one of the letters")
    return (
        Verdict(Outcome.RIGHT)
        if letter[1] == check.letter
        else Verdict(Outcome.WRONG, "another letter")
    )


def _solved(check: Gym, answer: str) -> Verdict:
    """Only a full score counts: most generators give a share to any text that has the answer
    somewhere in it.
    """
    if _THOUSANDS.fullmatch(answer):
        answer = answer.replace(",", "")
    try:
        score = opened(check.generator).score_answer(answer, json.loads(check.entry))
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001 - scorers read answers with int() and the like, and let it raise
        return Verdict(
            Outcome.UNPARSABLE, f"{check.generator} cannot read the answer: {type(error).__name__}"
        )
    return (
        Verdict(Outcome.RIGHT)
        if score >= 1
        else Verdict(Outcome.WRONG, f"scored {score:.2f} by {check.generator}")
    )
