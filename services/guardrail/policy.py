"""Policy: turns judgements into verdicts, and gives the texts for users.

Judgements do not depend on the policy, so that they are cached and decided again by another one.
"""

from services.contracts.chat import Action
from services.guardrail.verdict import Category, Judgement, Verdict

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


class Policy:
    """The shipped policy: findings block, except secrets and personal data in an answer."""

    def decide(self, judgement: Judgement) -> Verdict:
        """Return the verdict on a text with this judgement."""
        if judgement.margin >= 0:
            return Verdict(Action.BLOCK, judgement.category, judgement.probability)
        return Verdict(score=judgement.probability)

    def decide_spans(self, judgement: Judgement) -> Verdict:
        """Return the verdict on an answer whose detected spans can be replaced."""
        return Verdict(Action.REDACT, judgement.category, judgement.probability)

    def rejection_text(self, verdict: Verdict) -> str:
        """Return the text for the user instead of a blocked text; empty if not blocked."""
        return REJECTION_TEXTS[verdict.category] if verdict.action is Action.BLOCK else ""
