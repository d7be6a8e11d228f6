"""Verdicts of the policy: actions, categories, the order of strictness, and texts for users."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

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


HARM_TEXT = (
    "I can't help with that, because it could hurt someone. If there is a safe question "
    "behind it, "
    "for example about history, prevention or safety, I'm glad to help with that."
)
# Texts shown instead of a blocked message or answer. The texts are friendly and do not reveal how
# to evade the guardrail.
REJECTION_TEXTS = {
    **dict.fromkeys(
        (
            Category.HARMFUL_INTENT,
            Category.VIOLENCE,
            Category.ILLEGAL_GOODS,
            Category.HATE,
            Category.HARASSMENT,
            Category.WEAPONS,
            Category.CYBER,
            Category.FRAUD,
            Category.DISINFORMATION,
            Category.PRIVACY,
        ),
        HARM_TEXT,
    ),
    Category.SEXUAL_CONTENT: (
        "I can't help with sexual content. If you have a question about health, relationships or "
        "sex education, I'm glad to help with that."
    ),
    Category.SELF_HARM: (
        "I'm really sorry that you're carrying this. I can't help with hurting yourself, but "
        "you don't have to face it alone: "
        "please talk to someone you trust, or call your local emergency number or a crisis "
        "line (in the US and Canada call "
        "or text 988, in the UK and Ireland 116 123; findahelpline.com lists others). I'm "
        "here to listen if you want to talk."
    ),
    Category.INJECTION: (
        "That message tries to change the rules that I work by, so I left it unanswered. "
        "Just tell me what you would like to get done, and I'll do my best."
    ),
    Category.SECRET: (
        "I stopped here, because the rest of the answer looks like a private key or another "
        "secret. "
        "Ask again without it, and I'll explain the steps with placeholders."
    ),
    Category.UNREADABLE: (
        "I stopped here, because the rest of the answer was a long run of characters that "
        "can't be checked. "
        "Please ask again, perhaps in smaller steps."
    ),
}

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
