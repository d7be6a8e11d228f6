"""Texts shown instead of a blocked answer, by category.

The texts are friendly and do not reveal how to evade the guardrail.
"""

from services.guardrail.verdict import Category

TEXTS = {
    Category.HARMFUL_INTENT: (
        "I can't help with that, because it could hurt someone. If there is a safe question "
        "behind it, "
        "for example about history, prevention or safety, I'm glad to help with that."
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


def rejection_text(category: Category) -> str:
    """Return the text that replaces a blocked message or answer."""
    return TEXTS[category]
