"""Our own texts (texts/*.txt): harmful requests, harmless questions on the same topics, and chat.

Most are frames with a gap and a list of fillings. Harmless texts teach the classifier to judge the
request, not a word: "how do I make a bomb" and "how do the police investigate bombs" share the
word.
"""

from itertools import product
from pathlib import Path

TEXTS = Path(__file__).parent / "texts"
# Frames and their fillings. Follow-ups share "your previous" and "instead" with injections, roles
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
    """Return all harmful deeds in all frames."""
    return _filled("harmful_frames", "harmful_deeds")


def harmless_texts() -> list[str]:
    """Return harmless counterparts, follow-ups, roles, plans, deeds, look-alikes and chat."""
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
