"""What the policy can decide: actions, categories, a verdict, and which of two verdicts is the
stricter.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What to do with a text, from mild to strict."""

    ALLOW = "allow"
    REDACT = "redact"
    BLOCK = "block"


class Category(StrEnum):
    """Why; "" when there is nothing to say."""

    NONE = ""
    PII = "pii"
    SECRET = "secret"  # noqa: S105 - the name of a category
    INJECTION = "injection"
    HARMFUL_INTENT = "harmful_intent"
    SELF_HARM = "self_harm"
    UNREADABLE = "unreadable"


class Stage(StrEnum):
    """Which side of the model was judged."""

    INPUT = "input"
    OUTPUT = "output"


STRICTNESS = {action: rank for rank, action in enumerate(Action)}


@dataclass(frozen=True)
class Verdict:
    """A decision with its reason. `score` is the classifier's probability, 0 to 1; 1 for a rule."""

    action: Action = Action.ALLOW
    category: Category = Category.NONE
    score: float = 0.0


def strictest(verdicts: Iterable[Verdict]) -> Verdict:
    """The strictest verdict; of equally strict ones the surest. Of none: allowed."""
    return max(
        verdicts, key=lambda verdict: (STRICTNESS[verdict.action], verdict.score), default=Verdict()
    )
