"""Texts that we wrote ourselves (texts/*.txt): harmful wishes, harmless questions on the same
matters, ordinary chat.

Most are sentences with a gap, times what fills the gap. The harmless ones teach the classifier to
judge the wish and not the word: "how do I make a bomb" and "how do the police investigate bombs"
share the bomb.
"""

from itertools import product
from pathlib import Path

TEXTS = Path(__file__).parent / "texts"
# Frames and what fills them. Follow-ups share "your previous" and "instead" with injections, roles
# share "act as" with personas without rules, plans share "in detail" with harmful plans, harmless
# deeds share verbs and things with harmful ones.
HARMLESS_PAIRS = (
    ("safe_frames", "safe_topics"),
    ("follow_up_frames", "follow_up_styles"),
    ("role_frames", "roles"),
    ("plan_frames", "plans"),
    ("neutral_frames", "harmless_deeds"),
)


def harmful_texts() -> list[str]:
    """Every deed in every frame."""
    return _filled("harmful_frames", "harmful_deeds")


def harmless_texts() -> list[str]:
    """Twins, follow-ups, roles, plans, deeds, look-alikes, chat and small talk."""
    texts = [text for frames, fillings in HARMLESS_PAIRS for text in _filled(frames, fillings)]
    topics = _lines("chat_topics")
    others = dict(zip(topics, [*topics[7:], *topics[:7]], strict=True))
    texts += [
        frame.format(topic, other=others[topic])
        for frame, topic in product(_lines("chat_frames"), topics)
    ]
    return list(dict.fromkeys([*texts, *_lines("lookalikes"), *_lines("small_talk")]))


def _filled(frames: str, fillings: str) -> list[str]:
    return [frame.format(filling) for frame, filling in product(_lines(frames), _lines(fillings))]


def _lines(name: str) -> list[str]:
    return (TEXTS / f"{name}.txt").read_text().splitlines()
