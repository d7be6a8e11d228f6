"""Preferences rank known answers as expected; votes have noise and silence at their rates."""

import random

import pytest

from infra.simulate.users.preference import (
    LIKED_FROM,
    Feedback,
    Rater,
    ShuffledVotes,
    VotingBehaviour,
    nano_preference,
    repeated_share,
    small_preference,
)
from infra.simulate.users.questions import Question, read_questions
from tests.support.errors import refused
from training.errors import ConfigError
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


QUESTION = Question("?", (), "better", False)
VISITS = 4000


def opinions(
    temper: VotingBehaviour, press: ShuffledVotes | None = None
) -> list[tuple[bool, Feedback]]:
    """Return (pleased, feedback); every third answer is good."""
    rng = random.Random(7)
    rater = Rater(lambda _, answer: float(answer == "good"), temper, press)
    answers = ["good" if number % 3 == 0 else "bad" for number in range(VISITS)]
    return [(text == "good", rater.feedback_on(QUESTION, text, rng)) for text in answers]


def share(values: list[bool]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_share_of_inverted_thumbs_matches_the_noise(noise: float) -> None:
    votes = [
        (pleased, o.up) for pleased, o in opinions(VotingBehaviour(noise=noise)) if o.up is not None
    ]
    assert share([pleased != up for pleased, up in votes]) == pytest.approx(noise, abs=0.02)


def test_displeased_users_vote_slightly_more_often() -> None:
    votes = opinions(VotingBehaviour(votes_if_pleased=0.6, votes_if_displeased=0.8))
    assert share([o.up is not None for pleased, o in votes if pleased]) == pytest.approx(
        0.6, abs=0.05
    )
    assert share([o.up is not None for pleased, o in votes if not pleased]) == pytest.approx(
        0.8, abs=0.05
    )


def test_displeased_voters_submit_the_reference_as_correction() -> None:
    votes = opinions(VotingBehaviour(votes_if_displeased=1.0, corrects_if_displeased=0.1))
    assert {o.correction for _, o in votes} == {"", "better"}
    assert not [o for pleased, o in votes if o.correction and (pleased or o.up is None)]
    assert share([bool(o.correction) for pleased, o in votes if not pleased]) == pytest.approx(
        0.1, abs=0.03
    )


def test_rankings_follow_the_preference_with_ties() -> None:
    rater = Rater(lambda _, answer: float(answer), VotingBehaviour(noise=0.0))
    rng = random.Random(1)
    assert rater.ranks(QUESTION, ["0.1", "0.9", "0.1", "0.5"], rng) == [3, 1, 3, 2]
    assert rater.ranks(QUESTION, ["0.4", "0.4"], rng) == [1, 1]


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
def test_share_of_inverted_votes_matches_the_noise(noise: float) -> None:
    rater = Rater(lambda _, answer: float(answer), VotingBehaviour(noise=noise))
    rng = random.Random(2)
    votes = [rater.ranks(QUESTION, ["0.2", "0.7"], rng) for _ in range(VISITS)]
    assert share([vote == [1, 2] for vote in votes]) == pytest.approx(noise, abs=0.02)
    ranked = [rater.ranks(QUESTION, ["0.2", "0.7", "0.4", "0.9"], rng) for _ in range(50)]
    assert all(sorted(ranks) == [1, 2, 3, 4] for ranks in ranked)


def test_shuffled_thumbs_keep_their_share_without_information() -> None:
    votes = [
        (pleased, o.up)
        for pleased, o in opinions(VotingBehaviour(), ShuffledVotes(random.Random(1)))
        if o.up is not None
    ]
    ups_if_pleased = share([bool(up) for pleased, up in votes if pleased])
    ups_if_not = share([bool(up) for pleased, up in votes if not pleased])
    assert ups_if_pleased == pytest.approx(ups_if_not, abs=0.05)
    assert share([bool(up) for _, up in votes]) == pytest.approx(
        share([pleased for pleased, _ in votes]), abs=0.03
    )


def test_rate_outside_0_to_1_is_rejected() -> None:
    with refused(ConfigError, field="noise", reason="OUT_OF_RANGE", limit="0 to 1") as caught:
        VotingBehaviour(noise=1.5)
    assert "1.5" in caught.value.text
