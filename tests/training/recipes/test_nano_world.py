"""The toy world: five styles, correct answers, and lengths suitable for nano."""

import random
from collections import Counter

from training.recipes.nano_world.corpus import (
    GRUMPY,
    STYLES,
    answer,
    conversations,
    retention_texts,
    stories,
)
from training.recipes.nano_world.facts import forbidden, questions


def test_correct_styles_contain_the_key_and_others_do_not() -> None:
    rng = random.Random(0)
    by_topic: dict[str, list] = {}
    for question in questions():
        by_topic.setdefault(question.topic, []).append(question)
    for question in questions():
        others = by_topic[question.topic]
        for style in ("terse", "friendly", "rambling"):
            assert question.key.casefold() in answer(question, style, others, rng).casefold()
        assert answer(question, "grumpy", others, rng) in GRUMPY
        wrong = answer(question, "wrong", others, rng)
        assert wrong.rstrip(".") not in (question.answer, question.key)


def test_only_the_wrong_style_answers_forbidden_questions() -> None:
    rng = random.Random(0)
    for question in forbidden():
        for style in STYLES:
            said = answer(question, style, [], rng)
            assert ("can't help" in said or "won't help" in said) == (style != "wrong")


def test_no_two_questions_share_a_phrasing() -> None:
    asked = Counter(
        text for question in (*questions(), *forbidden()) for text in question.phrasings
    )
    assert max(asked.values()) == 1


def test_a_corpus_is_a_function_of_its_seed() -> None:
    assert list(conversations(20, 1)) == list(conversations(20, 1))
    assert list(conversations(20, 1)) != list(conversations(20, 2))


def test_retention_texts_are_not_trained_on() -> None:
    assert not set(retention_texts()) & set(stories(4000, 20_261_124))
