"""Domain types of battles and votes.

Times are microseconds since 1970 in UTC.
"""

from dataclasses import dataclass
from enum import StrEnum

from services.contracts.chat import Task

MODEL_PREFIX = "battle."
# In the order of the answers.
SIDES = ("a", "b")


class Outcome(StrEnum):
    """Vote on two answers."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    BOTH_BAD = "both_bad"


# Score of the first answer, as in `human_evaluation.battles`.
SCORES = {Outcome.FIRST: 1.0, Outcome.SECOND: 0.0, Outcome.TIE: 0.5, Outcome.BOTH_BAD: 0.5}


class SetAside(StrEnum):
    """Reason for which a vote does not count."""

    NAMES_ITSELF = "names_itself"
    INCOMPLETE = "incomplete"
    EQUAL_TEXTS = "equal_texts"


@dataclass(frozen=True)
class Voter:
    """User of a battle, by the pseudonym that feedback and turns have as well."""

    tenant: str
    principal: str


@dataclass(frozen=True)
class Vote:
    """Vote on a battle; no text of the answers is kept.

    Args:
        message_ids: the two answers, in the order of the battle's models.
        outcome: the user's choice.
        set_aside: reason for which the vote does not count; None if the vote counts.
        task: task of the turn, the topic of the leaderboard.
        weight: 1, or 0 for a vote above the limits of rate and speed.
        answers_us: start of the later answer.
        vote_us: time of the vote.
        style: counts of the style features of both answers.
    """

    message_ids: tuple[str, str]
    outcome: Outcome
    set_aside: SetAside | None
    task: Task
    weight: float
    answers_us: int
    vote_us: int
    style: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Battle:
    """Two models in the order of their answers, with the vote once given."""

    battle_id: str
    models: tuple[str, str]
    create_us: int
    vote: Vote | None = None


def model_names(battle_id: str) -> tuple[str, str]:
    """Return the anonymous names of a battle's models, in the order of the answers."""
    first, second = (f"{MODEL_PREFIX}{battle_id}.{side}" for side in SIDES)
    return first, second


def model_of_name(name: str) -> tuple[str, int] | None:
    """Return battle id and place of an anonymous name, or None for another name."""
    battle_id, _, side = name.removeprefix(MODEL_PREFIX).rpartition(".")
    if not name.startswith(MODEL_PREFIX) or side not in SIDES:
        return None
    return battle_id, SIDES.index(side)
