"""Verdicts on responses in free text.

Call these functions in a worker process only, since the libraries may run without end.
"""

from __future__ import annotations

import json
import re

from training.verification.answers import last_number, marked_answer, single_line
from training.verification.checks import Choice, Gym, Mathematics, TextCheck
from training.verification.number_words import in_digits
from training.verification.symbols import compare
from training.verification.tasks.gym import scoring_generator
from training.verification.verdict import Outcome, Verdict

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
    return _judge_choice(check, answer) if isinstance(check, Choice) else _judge_gym(check, answer)


def _judge_choice(check: Choice, answer: str) -> Verdict:
    letter = _LETTER.fullmatch(answer)
    if letter is None or ord(letter[1]) - ord("A") >= check.letters:
        return Verdict(Outcome.UNPARSABLE, "not one of the letters")
    return (
        Verdict(Outcome.RIGHT)
        if letter[1] == check.letter
        else Verdict(Outcome.WRONG, "another letter")
    )


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
