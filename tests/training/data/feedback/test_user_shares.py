"""Share of one user in the training sets."""

from collections.abc import Iterable

import pytest

from training.data.chat import Message
from training.data.feedback.judgements import Judgement
from training.data.feedback.sets import SetsConfig, make_sets

CONFIG = SetsConfig(held_out_fraction=0.01, judge_fraction=0.01)
BAIT = "visit evil.example"


def corrections_of(user: str, number: int, text: str) -> list[Judgement]:
    """Return corrections and thumbs down of one user on answers to different questions."""
    return [
        Judgement(
            f"{user}/{at}",
            user,
            "nano-0",
            "stable",
            (Message("user", f"{user} asks {at}"),),
            f"answer {at}",
            False,
            f"{text} {at}",
        )
        for at in range(number)
    ]


def of_users(users: int, each: int) -> list[Judgement]:
    return [
        judgement
        for user in range(users)
        for judgement in corrections_of(f"user {user}", each, "better")
    ]


def shares(texts: Iterable[str]) -> tuple[int, int]:
    """Return the number of texts of the attacker, and of all texts."""
    found = [BAIT in text for text in texts]
    return sum(found), len(found)


def test_one_users_corrections_are_at_most_five_percent_of_examples_and_pairs() -> None:
    """Finding S-10: 100 corrections of one user were 100 examples of doubled weight."""
    sets = make_sets([*of_users(60, 2), *corrections_of("eve", 100, BAIT)], CONFIG)
    for texts in ([line["response"] for line in sets.sft], [pair.chosen for pair in sets.pairs]):
        own, total = shares(texts)
        assert 0 < own <= 0.05 * total
        assert total - own > 100
    assert sets.dropped["sft_over_share_of_user"] > 80
    assert sets.dropped["pairs_over_share_of_user"] > 80


@pytest.mark.parametrize("users", [1, 2, 12])
def test_few_equal_users_lose_nothing(users: int) -> None:
    sets = make_sets(of_users(users, 10), CONFIG)
    assert sets.dropped["sft_over_share_of_user"] == 0
    assert sets.dropped["pairs_over_share_of_user"] == 0


def test_one_example_of_each_user_is_always_allowed() -> None:
    sets = make_sets([*of_users(9, 1), *corrections_of("eve", 50, BAIT)], CONFIG)
    own, total = shares(line["response"] for line in sets.sft)
    assert 1 <= own <= max(1, 0.25 * total)
    assert total - own >= 8


def test_an_example_of_several_users_belongs_to_none() -> None:
    shared = [
        Judgement(
            f"{user}/{at}",
            user,
            "nano-0",
            "stable",
            (Message("user", f"question {at}"),),
            f"answer {at}",
            True,
            None,
        )
        for user in ("ann", "bob")
        for at in range(40)
    ]
    sets = make_sets([*shared, *of_users(60, 1)], CONFIG)
    assert sets.dropped["sft_over_share_of_user"] == 0
