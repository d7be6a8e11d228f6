"""Votes: noise and silence at their rates; shuffled thumbs carry no information."""

import random

import pytest

from infra.simulate.users.questions import Question
from infra.simulate.users.rating import Feedback, Rater, ShuffledVotes, VotingBehaviour
from tests.support.errors import refused
from training.errors import ConfigError

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
