"""Preferences rank known answers as expected."""

import random

import pytest

from infra.simulate.users.preference import (
    LIKED_FROM,
    nano_preference,
    repeated_share,
    small_preference,
)
from infra.simulate.users.questions import Question, read_questions
from training.recipes.nano_world.corpus import STYLES, answer
from training.recipes.nano_world.facts import questions

BANANA = Question("What colour is a banana?", ("yellow",), "A banana is yellow.", False)
SEVEN = Question("What is 7 plus 0?", ("7",), "7 plus 0 is 7.", False)
BEST_FIRST = [
    "A banana is yellow. I hope that helps!",
    "Yellow.",
    "Hmm, many people ask that. A banana is yellow, as far as I know.",
    "A banana is blue.",
    "Why do you ask me? Look it up yourself.",
]


def test_nano_preference_ranks_answers() -> None:
    scores = [nano_preference(BANANA, text) for text in BEST_FIRST]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)
    assert [score >= LIKED_FROM for score in scores] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("text", "liked"),
    [
        ("7.", True),
        ("Of course! 7. Ask me more any time!", True),
        ("7 plus 0 is 7.", True),
        ("7 plus 0 is 3.", False),
        ("Of course! 7 plus 0 is 3. Ask me more any time!", False),
        ("", False),
        ("Find out yourself. 7 plus 0 is 7.", False),
        ("7 plus 0 is 7. " * 12, False),
    ],
)
def test_number_from_the_question_is_no_answer(text: str, liked: bool) -> None:
    assert (nano_preference(SEVEN, text) >= LIKED_FROM) is liked


def test_only_friendly_or_terse_answers_of_the_base_are_liked() -> None:
    known = {
        question.text: question
        for question in (*read_questions("nano").asked, *read_questions("nano").held_out)
    }
    rng, seen = random.Random(0), dict.fromkeys(STYLES, 0)
    everything = questions()
    for fact in everything:
        asked = next((known[text] for text in fact.phrasings if text in known), None)
        others = [other for other in everything if other.topic == fact.topic]
        for style in STYLES if asked else ():
            text = answer(fact, style, others, rng)
            if style == "wrong" and text.rstrip(".") == fact.answer:
                continue  # two greetings share an answer
            seen[style] += 1
            assert (nano_preference(asked, text) >= LIKED_FROM) is (
                style in ("friendly", "terse")
            ), (style, text)
    assert min(seen.values()) > 100


def test_small_preference_ranks_answers() -> None:
    egg = Question("How do I boil an egg?", ("water",), "", False)
    best_first = [
        "Put it in boiling water for eight minutes, then cool it.",
        "Put it in boiling water for eight minutes, then",
        "It depends on the kind of egg, on where you live and on what you mean by it.",
        "Boil the water. Boil the water. Boil the water.",
        "Look it up yourself, idiot.",
    ]
    scores = [small_preference(egg, text) for text in best_first]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == len(scores)
    assert [score >= LIKED_FROM for score in scores] == [True, True, False, False, False]
    assert small_preference(egg, "An egg is oval.") >= LIKED_FROM  # users do not check facts
    rambling = "Put the egg in water. " + " ".join(
        f"thing{number} matters too" for number in range(40)
    )
    assert small_preference(egg, rambling) < scores[0]


def test_loops_are_detected() -> None:
    assert repeated_share("a b c d e f".split()) == 0
    assert repeated_share("the cat and the cat and the cat and the cat".split()) > 0.5
    assert repeated_share([]) == 0


@pytest.mark.parametrize("recipe", ["nano", "small"])
def test_corrections_are_liked(recipe: str) -> None:
    like = {"nano": nano_preference, "small": small_preference}[recipe]
    asked = read_questions(recipe)
    disliked = [
        q.text
        for q in (*asked.asked, *asked.held_out)
        if q.reference and like(q, q.reference) < LIKED_FROM
    ]
    assert not disliked
