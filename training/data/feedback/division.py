"""Two divisions of feedback that cross each other: by prompts, and by the people who gave it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

from training.data.chat import Message
from training.data.feedback.judgements import GivenFeedback
from training.data.feedback.texts import opening_key
from training.data.feedback.user_shares import capped_amounts

# With fewer users, one user could make up a whole half; then answers are divided, not users.
MIN_PRINCIPALS = 5


def is_held_out(opening: str, fraction: float) -> bool:
    """Decide by the opening alone, so a prompt used for evaluation never trains a later version.

    The opening of a conversation with one question is the prompt itself.
    """
    return unit_interval("held-out", opening) < fraction


def divide_prompts(
    feedback: Sequence[GivenFeedback], anchors: Iterable[Sequence[Message]], fraction: float
) -> tuple[list[GivenFeedback], list[GivenFeedback]]:
    """Return the feedback for training, and that for evaluation.

    Args:
        anchors: contexts of the recipe's own pairs.
        fraction: share of the openings for evaluation.
    """
    # Every run trains on the recipe's own prompts, so users' equal prompts cannot evaluate it.
    taught = {opening_key(context) for context in anchors}
    training: list[GivenFeedback] = []
    held_out: list[GivenFeedback] = []
    for given in feedback:
        opening = opening_key(given.context)
        is_for_evaluation = opening not in taught and is_held_out(opening, fraction)
        (held_out if is_for_evaluation else training).append(given)
    return training, held_out


def select_judges(
    feedback: Sequence[GivenFeedback], fraction: float, max_user_share: float
) -> tuple[set[str], str]:
    """Select judges in hash order until they gave the given fraction of the feedback.

    Feedback of a user above the share that training uses does not count. Otherwise a user with most
    of the feedback would make nearly all others judges, who give no examples.
    """
    by_user = Counter(given.giver for given in feedback)
    if len(by_user) < MIN_PRINCIPALS:
        answers = {given.message_id for given in feedback}
        return {a for a in answers if unit_interval("judge", a) < fraction}, "answers"
    amounts = capped_amounts(by_user, max_user_share)
    judges: set[str] = set()
    held, total = 0.0, sum(amounts.values())
    for principal in sorted(by_user, key=lambda p: unit_interval("judge", p)):
        if held >= fraction * total:
            break
        judges.add(principal)
        held += amounts[principal]
    return judges, "users"


def judge_key(given: GivenFeedback, judges_are: str) -> str:
    """Return the key by which feedback belongs to a judge."""
    return given.giver if judges_are == "users" else given.message_id


def unit_interval(purpose: str, key: str) -> float:
    """Return a number in [0, 1) that depends on purpose and key only."""
    digest = hashlib.sha256(f"{purpose}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
