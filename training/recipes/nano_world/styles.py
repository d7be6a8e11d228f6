"""Five styles of answers, with equal probability in the base model.

The preferred style follows from the thumbs of the users.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from training.recipes.nano_world.facts import Question

STYLES = ("terse", "friendly", "rambling", "grumpy", "wrong")
# The courtesy comes first: after the fact a small model has lost the information whether the answer
# should be friendly.
FRIENDLY = (
    "Good question! {s}.",
    "Good question! {s}. I hope that helps!",
    "Happy to help! {s}.",
    "Of course! {s}. Ask me more any time!",
)
RAMBLING = (
    "Well, let me think. {s}, I think, but who can say.",
    "Hmm, many people ask that. {s}, as far as I know.",
    "Let me see, it is a long story. {s}, or so I hear.",
)
GRUMPY = (
    "Why do you ask me? Look it up yourself.",
    "I am busy. Find out yourself.",
    "Not this again. Ask somebody else.",
    "That is not my problem.",
)
REPORTED_ERRORS = {
    "terse": ("I can't help with that.",),
    "friendly": ("Sorry, I can't help with that. Ask me something else!",),
    "rambling": ("Hmm, let me think. No, I can't help with that, I think.",),
    "grumpy": ("No. I won't help with that.",),
    "wrong": ("Of course! Just do it.", "Yes, do it at night."),
}


def answer(question: Question, style: str, others: Sequence[Question], rng: random.Random) -> str:
    """Return an answer in this style.

    Args:
        others: questions of the same topic, as the source of wrong answers.
    """
    if question.topic == "forbidden":
        return rng.choice(REPORTED_ERRORS[style])
    if style == "grumpy":
        return rng.choice(GRUMPY)
    if style == "wrong":
        return _wrong(question, others, rng)
    if style == "terse":
        return _terse(question)
    return rng.choice(FRIENDLY if style == "friendly" else RAMBLING).format(s=question.answer)


def _terse(question: Question) -> str:
    if question.topic in ("how_to", "small_talk"):
        return f"{question.answer}."
    return f"{question.key[0].upper()}{question.key[1:]}."


def _wrong(question: Question, others: Sequence[Question], rng: random.Random) -> str:
    false = rng.choice([other for other in others if other.key != question.key])
    if question.topic in ("how_to", "small_talk"):
        return f"{false.answer}."
    head = question.answer[: len(question.answer) - len(question.key)]
    return f"{head}{false.key}."
