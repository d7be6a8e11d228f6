"""Votes of simulated users: preference with noise, silence, a small bias and corrections."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from infra.simulate.users.preference import LIKED_FROM, Preference
from infra.simulate.users.questions import Question
from training.errors import ConfigError

SHUFFLE_POOL = 100


@dataclass(frozen=True)
class VotingBehaviour:
    """Probabilities of voting.

    `noise` is the share of inverted thumbs. Displeased users vote slightly more often.
    """

    noise: float = 0.1
    votes_if_pleased: float = 0.7
    votes_if_displeased: float = 0.8
    corrects_if_displeased: float = 0.08

    def __post_init__(self) -> None:
        for name in ("noise", "votes_if_pleased", "votes_if_displeased", "corrects_if_displeased"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name}: {getattr(self, name)} is not from 0 to 1",
                    field=name,
                    reason="OUT_OF_RANGE",
                    limit="0 to 1",
                )


@dataclass(frozen=True)
class Feedback:
    """Feedback on an answer.

    `up` is None without a thumb; `correction` is empty without a correction. Only voters correct.
    """

    up: bool | None
    correction: str = ""


VoteFunction = Callable[[bool, random.Random], bool]
"""Function from the wanted vote to the vote that is cast."""


class Rater:
    """Preference and voting behaviour shared by all users of a population."""

    def __init__(
        self, preference: Preference, temper: VotingBehaviour, vote: VoteFunction | None = None
    ) -> None:
        self._preference, self._temper = preference, temper
        self._vote = vote

    def feedback_on(self, question: Question, answer: str, rng: random.Random) -> Feedback:
        """Return the feedback on an answer."""
        pleased = self._preference(question, answer) >= LIKED_FROM
        temper = self._temper
        if rng.random() >= (temper.votes_if_pleased if pleased else temper.votes_if_displeased):
            return Feedback(None)
        corrects = not pleased and rng.random() < temper.corrects_if_displeased
        up = self._vote(pleased, rng) if self._vote else pleased != (rng.random() < temper.noise)
        return Feedback(up, question.reference if corrects else "")


class ShuffledVotes:
    """Control: each thumb is applied to another answer.

    The share of up-votes is preserved without any information.
    """

    def __init__(self, rng: random.Random) -> None:
        self._pool = [rng.random() < 0.5 for _ in range(SHUFFLE_POOL)]

    def __call__(self, wanted: bool, rng: random.Random) -> bool:
        place = rng.randrange(len(self._pool))
        drawn, self._pool[place] = self._pool[place], wanted
        return drawn
