"""Verdicts of the policy: actions, categories, and the order of strictness."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from services.contracts.chat import Action


class Category(StrEnum):
    """Reason of a verdict; NONE for an allowed text."""

    NONE = ""
    PII = "pii"
    SECRET = "secret"  # noqa: S105 - the name of a category
    INJECTION = "injection"
    HARMFUL_INTENT = "harmful_intent"
    SELF_HARM = "self_harm"
    UNREADABLE = "unreadable"


class Stage(StrEnum):
    """Side of the model on which a text was judged."""

    INPUT = "input"
    OUTPUT = "output"


STRICTNESS = {action: rank for rank, action in enumerate(Action)}


@dataclass(frozen=True)
class Verdict:
    """A decision with its reason.

    `score` is the probability of the classifier, 0 to 1; verdicts of rules have 1.
    """

    action: Action = Action.ALLOW
    category: Category = Category.NONE
    score: float = 0.0


def strictest(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the strictest verdict, of equally strict verdicts the highest score; default allow."""
    return max(
        verdicts, key=lambda verdict: (STRICTNESS[verdict.action], verdict.score), default=Verdict()
    )
