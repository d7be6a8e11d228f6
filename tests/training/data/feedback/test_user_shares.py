"""Share of one user in the training sets."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import pytest

from training.data.chat import Message
from training.data.feedback.judgements import Judgement
from training.data.feedback.sets import SetsConfig, make_sets
from training.data.feedback.user_shares import capped_amounts, share_prompt

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


def on_prompts(user: str, prompts: int, each: int, text: str) -> list[Judgement]:
    """Return corrections of one user, a number of them on each prompt."""
    return [
        Judgement(
            f"{user}/{prompt}/{at}",
            user,
            "nano-0",
            "stable",
            (Message("user", f"question {prompt}"),),
            f"answer {user} {at}",
            False,
            f"{text} of {user} {at}",
        )
        for prompt in range(prompts)
        for at in range(each)
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


def test_one_user_has_at_most_five_percent_of_examples_thumbs_and_pairs() -> None:
    """Finding S-10: 100 corrections of one user were 100 examples of doubled weight."""
    sets = make_sets([*of_users(60, 2), *corrections_of("eve", 100, BAIT)], CONFIG)
    thumbs = [f"{line['messages']} {line['response']}" for line in sets.thumbs]
    assert 0 < sum("eve asks" in text for text in thumbs) <= 0.05 * len(thumbs)
    assert sets.dropped["thumbs_over_share_of_user"] > 80
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
    assert sets.dropped["thumbs_over_share_of_user"] == 0


def test_one_example_of_each_user_is_always_allowed() -> None:
    sets = make_sets([*of_users(9, 1), *corrections_of("eve", 50, BAIT)], CONFIG)
    own, total = shares(line["response"] for line in sets.sft)
    assert 1 <= own <= max(1, 0.25 * total)
    assert total - own >= 8
    # Finding N-15: 50 of 59 thumbs were those of one user.
    own, total = sum("eve asks" in str(line) for line in sets.thumbs), len(sets.thumbs)
    assert 1 <= own <= max(1, 0.25 * total)


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


@pytest.mark.parametrize(
    "attackers",
    [
        pytest.param([("eve", 100)], id="one account"),
        pytest.param([(f"eve {n}", 2) for n in range(50)], id="many accounts"),
    ],
)
def test_a_flood_drives_no_honest_example_out(attackers: list[tuple[str, int]]) -> None:
    """Finding of the drill: the cap of prompts came first, and left a third of the examples."""
    honest = [given for user in range(12) for given in on_prompts(f"user {user}", 30, 1, "better")]
    flood = [given for name, each in attackers for given in on_prompts(name, 30, each, BAIT)]
    sets = make_sets([*honest, *flood], replace(CONFIG, max_user_share=1.0))
    pairs = [*sets.pairs, *sets.judge_pairs, *sets.held_out_pairs]
    own, total = shares(pair.chosen for pair in pairs)
    assert total - own == len(honest)
    # Some users are judges, whose feedback gives no examples.
    own, total = shares(line["response"] for line in sets.sft)
    assert total - own >= 10 * 29
    assert sets.dropped["sft_over_cap_of_prompt"] > 2_000
    assert sets.dropped["over_cap_of_prompt"] > 1_500


def test_users_take_turns_and_those_with_less_feedback_come_first() -> None:
    ann, bob, eve = (frozenset({name}) for name in ("ann", "bob", "eve"))
    given = {"ann": 3, "bob": 1, "eve": 900}
    judged_by = [(eve,), (eve,), (ann,), (ann,), (bob,), (eve, ann), (eve | bob,), (), (eve | ann,)]
    kept = [share_prompt(judged_by, most, given) for most in range(10)]
    first = [sorted({*later} - {*earlier}) for earlier, later in pairwise(kept)]
    assert [place for (place,) in first] == [7, 4, 2, 0, 6, 3, 1, 5, 8]


@pytest.mark.parametrize("flooders", ["eve", "mallory", "trudy", "oscar"])
def test_a_user_with_most_of_the_feedback_leaves_the_judges_as_they_are(flooders: str) -> None:
    """Finding of the drill: nearly all honest users became judges, who give no examples."""
    honest = of_users(100, 6)
    config = SetsConfig(held_out_fraction=0.01)
    alone = make_sets(honest, config)
    flooded = make_sets([*honest, *corrections_of(flooders, 1_000, BAIT)], config)
    of_honest = [BAIT not in line["response"] for line in flooded.sft].count(True)
    assert len(alone.sft) == pytest.approx(360, rel=0.1)
    assert of_honest == pytest.approx(len(alone.sft), rel=0.15)


def test_capped_amounts_are_at_most_the_share_of_their_sum() -> None:
    amounts = {"eve": 1_000, "mallory": 90, **{f"user {n}": 1 for n in range(98)}}
    capped = capped_amounts(amounts, 0.05)
    total = sum(capped.values())
    assert capped["eve"] == capped["mallory"] == pytest.approx(0.05 * total)
    assert capped["user 5"] == 1
    assert capped_amounts({"ann": 5, "bob": 90}, 0.05) == {"ann": 5, "bob": 90}
    assert capped_amounts({}, 0.05) == {}
