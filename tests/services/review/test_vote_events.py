"""Events of votes, from the review service to a pair of the training sets."""

import pytest
from thumbwheel.chat.v1 import chat_pb2

from services.contracts.chat import Arm, Task
from services.review.arena.battle import Battle, Outcome, Vote, Voter
from services.review.arena.votes import vote_event
from tests.services.review.training_events import read_by_training, turn
from tests.training.feedback_log import principal_of, uid
from training.data.feedback.events import Feedback
from training.data.feedback.judgements import judge
from training.data.feedback.pairs import LabelNoise, group_by_prompt, make_pairs
from training.data.feedback.sources import Source

MODELS, IDS = ("nano-1", "nano-2"), (uid("first"), uid("second"))
TEXTS = ("the first answer", "the second answer")
VOTER = Voter("acme", principal_of("ann"))


def event_read_by_training(outcome: Outcome) -> Feedback:
    """Return the event of a vote as training reads it from the feedback table."""
    first = chat_pb2.Message(
        id=IDS[0], conversation_id=uid("c"), model_version=MODELS[0], arm=Arm.BATTLE
    )
    battle = Battle(uid("battle"), MODELS, 1)
    vote = Vote(IDS, outcome, None, Task.CHAT, 1.0, 1_000_000, 2_000_000, ((), ()))
    return read_by_training(vote_event(VOTER, battle, first, vote))


@pytest.mark.parametrize(
    ("outcome", "preferred"),
    [
        (Outcome.FIRST, [TEXTS]),
        (Outcome.SECOND, [TEXTS[::-1]]),
        (Outcome.TIE, []),
        (Outcome.BOTH_BAD, []),
    ],
)
def test_a_vote_becomes_the_pair_that_the_user_meant(
    outcome: Outcome, preferred: list[tuple[str, str]]
) -> None:
    turns = [
        turn(VOTER.principal, *answer, arm=Arm.BATTLE)
        for answer in zip(IDS, MODELS, TEXTS, strict=True)
    ]
    given, dropped = judge([event_read_by_training(outcome)], turns, 10)
    assert (len(given), dropped) == (1, [])
    pairs, _ = make_pairs(group_by_prompt(given), LabelNoise(None, 0, 0), 10, 0)
    assert [(pair.chosen, pair.rejected) for pair in pairs] == preferred
    assert {pair.source for pair in pairs} <= {Source.ARENA}
    assert given[0].giver == VOTER.principal
