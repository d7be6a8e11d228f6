"""Bounds on the training examples that depend on one user, in a set and in a prompt.

An example depends on a user if no other user gave the judgement. A preference pair has a judgement
on each side, and each side counts as half an example. Judgements of several users count for none.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeVar

Example = TypeVar("Example")


# A cap is at least twice the equal share, so that two users or fewer lose nothing.
EQUAL_SHARES = 2
CLOSE = 1 - 1e-9


def capped_amounts(amounts: Mapping[str, int], max_share: float) -> dict[str, float]:
    """Return amounts of which none is more than a share of their sum, as `cap_users` leaves."""
    share = _share(max_share, len(amounts))
    limit = float(max(amounts.values(), default=0))
    while (lower := share * sum(min(amount, limit) for amount in amounts.values())) < CLOSE * limit:
        limit = lower
    return {user: min(amount, limit) for user, amount in amounts.items()}


def _share(max_share: float, users: int) -> float:
    return max(max_share, EQUAL_SHARES / users) if users else 1.0


def cap_users(
    examples: Sequence[Example],
    judged_by: Sequence[Sequence[frozenset[str]]],
    max_share: float,
    seed: int,
) -> tuple[list[Example], int]:
    """Drop examples until no user has more than a share of the rest; return the number of drops.

    With few users the share is twice the equal share, so that two users or fewer lose nothing. One
    example is always allowed. The dropped examples are chosen by the seed, and the others keep
    their order.

    Args:
        judged_by: users of each judgement of an example; none for examples of the recipe.
        max_share: largest share of one user, for example 0.05.
    """
    # User → weight in each example; a judgement of several users has no weight.
    weights = [
        {user: sides.count(side) / len(sides) for side in sides if len(side) == 1 for user in side}
        for sides in judged_by
    ]
    users = {user for judgements in judged_by for side in judgements for user in side}
    share = _share(max_share, len(users))
    kept = list(range(len(examples)))
    random.Random(seed).shuffle(kept)
    while True:
        # Fewer examples lower the limit too, so the pass is repeated until all users are below.
        limit = max(1.0, share * len(kept))
        used: dict[str, float] = defaultdict(float)
        below = []
        for number in kept:
            after = {user: used[user] + weight for user, weight in weights[number].items()}
            if all(weight <= limit for weight in after.values()):
                used |= after
                below.append(number)
        if len(below) == len(kept):
            return [examples[number] for number in sorted(kept)], len(examples) - len(kept)
        kept = below


def share_prompt(
    judged_by: Sequence[Sequence[frozenset[str]]], most: int, given: Mapping[str, int]
) -> list[int]:
    """Return the places of the examples of a prompt that are kept, in ascending order.

    Users take turns, and those with less feedback in the whole set come first. A flood of examples
    by some users thus leaves the examples of all others in the set.

    Args:
        judged_by: users of each judgement of an example, in the order of preference among the
            examples of a user.
        most: number of examples to keep.
        given: amount of feedback of each user in the set.
    """
    turns: Counter[str] = Counter()

    def rank(sides: Sequence[frozenset[str]], of_user: Mapping[str, int]) -> int:
        # A judgement of several users is that of the one who is ranked first.
        return max(
            (min(of_user.get(user, 0) for user in side) for side in sides if side), default=0
        )

    ranks = []
    for place, sides in enumerate(judged_by):
        ranks.append((rank(sides, turns), rank(sides, given), place))
        turns.update(user for side in sides for user in side)
    return sorted(place for *_, place in sorted(ranks)[:most])
