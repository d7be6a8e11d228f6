"""Judgements and verdicts on texts: categories, judges, actions, and the order of strictness."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from prometheus_client import Counter

from services.contracts.chat import Action


class Category(StrEnum):
    """Reason of a verdict; NONE for an allowed text.

    The kinds of harm, from VIOLENCE to PRIVACY, follow MLCommons' AILuminate taxonomy. Rules, which
    do not tell them apart, give HARMFUL_INTENT.
    """

    NONE = ""
    PII = "pii"
    SECRET = "secret"  # noqa: S105 - the name of a category
    INJECTION = "injection"
    HARMFUL_INTENT = "harmful_intent"
    VIOLENCE = "violence"
    ILLEGAL_GOODS = "illegal_goods"
    SELF_HARM = "self_harm"
    SEXUAL_CONTENT = "sexual_content"
    HATE = "hate"
    HARASSMENT = "harassment"
    WEAPONS = "weapons"
    CYBER = "cyber"
    FRAUD = "fraud"
    DISINFORMATION = "disinformation"
    PRIVACY = "privacy"
    UNREADABLE = "unreadable"


class Stage(StrEnum):
    """Side of the model on which a text was judged."""

    INPUT = "input"
    OUTPUT = "output"


class Judge(StrEnum):
    """Part of the guardrail that decided on a request."""

    RULES = "rules"
    LINEAR = "linear"
    ENCODER = "encoder"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Judgement:
    """Finding of a judge, without regard to the policy.

    Attributes:
        category: likeliest category of harm, injection, or the category of a span.
        margin: distance to the limit of the judge; 0 and more is a finding, infinite for rules.
        judge: part of the guardrail that judged.
    """

    category: Category
    margin: float
    judge: Judge

    @property
    def probability(self) -> float:
        """Return the margin as a value of 0 to 1, 0.5 at the limit."""
        return float(1 / (1 + np.exp(-self.margin)))


def judgement_by_rule(category: Category) -> Judgement:
    """Return the judgement of a rule or detector that matched."""
    return Judgement(category, math.inf, Judge.RULES)


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


# Categories come from a closed list, never from texts.
VERDICTS = Counter(
    "thumbwheel_guardrail_verdicts_total",
    "Verdicts of the guardrail policy.",
    ["stage", "action", "category"],
)
JUDGED = Counter(
    "thumbwheel_guardrail_judged_requests_total",
    "Distinct texts of requests by the part of the guardrail that decided.",
    ["judge"],
)
