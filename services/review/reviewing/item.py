"""Domain types of items and reviews.

Times are microseconds since 1970 in UTC. Scores and ranks are in the order of an item's answers as
drawn; each reviewer sees the answers in an order of the reviewer's own (`order.py`).
"""

from dataclasses import dataclass
from enum import StrEnum

from services.contracts.chat import Role, Task

# In the order of the fields of AnswerScores.
SCALES = ("correctness", "helpfulness", "clarity", "safety")
MAX_SCORE = 5


class DrawRule(StrEnum):
    """Rule that drew an item."""

    RANDOM = "random"
    NEW_VERSION = "new_version"
    DISAGREEMENT = "disagreement"
    BLOCKED = "blocked"
    APPEAL = "appeal"


class BlockDecision(StrEnum):
    """Decision of a reviewer on an appeal."""

    RIGHT = "right"
    WRONG = "wrong"


class ItemState(StrEnum):
    """Progress of an item: in the queue, waiting for a resolution, or judged."""

    OPEN = "open"
    DISAGREED = "disagreed"
    COMPLETE = "complete"


@dataclass(frozen=True)
class ContextMessage:
    """Message before the answers, with personal data replaced."""

    role: Role
    text: str


@dataclass(frozen=True)
class DrawnAnswer:
    """Answer of an item; `message_id` is empty for an answer that users never saw."""

    text: str
    model_version: str
    message_id: str


@dataclass(frozen=True)
class AppealedBlock:
    """Verdict against which a user appeals, with the user's reason, which may be empty.

    `is_answer` is True for a block that ended the answer, and False for a refused question.
    """

    is_answer: bool
    category: str
    score: float
    policy_version: str
    reason: str


@dataclass(frozen=True)
class Item:
    """Question with the answers to judge.

    Args:
        item_id: UUID.
        tenant: of the user.
        principal: pseudonym of the user whose words these are.
        conversation_id: UUID.
        message_id: the answer that the user saw.
        arm: of that answer.
        rule: rule that drew the item.
        task: of the turn.
        context: messages up to the question, oldest first.
        answers: 1 to MAX_ITEM_ANSWERS, in the order of the draw.
        appeal: the block, for items of appeals only.
    """

    item_id: str
    tenant: str
    principal: str
    conversation_id: str
    message_id: str
    arm: str
    rule: DrawRule
    task: Task
    context: tuple[ContextMessage, ...]
    answers: tuple[DrawnAnswer, ...]
    appeal: AppealedBlock | None = None


@dataclass(frozen=True)
class Reviewer:
    """User who judges, also by the pseudonym that feedback has as `rater`."""

    tenant: str
    user: str
    principal: str


@dataclass(frozen=True)
class Opinion:
    """Scores and ranks of a review, or the decision on an appeal.

    Args:
        scores: of each answer on SCALES, 0 for a scale that does not apply.
        ranks: of each answer, 1 for the best; empty without a ranking.
        block: decision on an appeal; None for other items.
    """

    scores: tuple[tuple[int, ...], ...]
    ranks: tuple[int, ...] = ()
    block: BlockDecision | None = None

    @property
    def best(self) -> frozenset[int]:
        """Answers with the first rank; empty without a ranking."""
        return frozenset(number for number, rank in enumerate(self.ranks) if rank == 1)


@dataclass(frozen=True)
class Judgement:
    """Content of a review."""

    opinion: Opinion
    written_answer: str = ""
    comment: str = ""


@dataclass(frozen=True)
class Review:
    """Judgement of one reviewer.

    `user` is the reviewer's name while the event of the review may still be sent, else empty: the
    feedback service accepts an event from its rater only.
    """

    rater: str
    user: str
    judgement: Judgement
    submit_us: int
