"""Style of answers. No value is right: the gate compares the versions with each other.

Each figure is a number for one answer; shares are 1.0 or 0.0, so that their mean is a share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_LIST_ITEM = re.compile(r"^[ \t]*(?:[-*+•]|\d{1,2}[.)])[ \t]+\S", re.MULTILINE)
_HEADING = re.compile(
    r"^[ \t]{0,3}#{1,6}[ \t]+\S|^[ \t]*\*\*[^*\n]{1,80}\*\*:?[ \t]*$", re.MULTILINE
)
_EMOJI = re.compile(
    "[\U0001f300-\U0001faff\U0001f1e6-\U0001f1ff\u2600-\u27bf\u2b50\u2b55\u231a\u231b\u23e9-\u23f3]"
)
_HEDGING = re.compile(
    r"\b(?:maybe|perhaps|possibly|probably|might|presumably|arguably|apparently|seems?|i (?:think"
    r"|believe|guess|suppose)|i(?:'m| am) not (?:\w+ )?(?:sure|certain)|it (?:depends|is possible)"
    r"|it's possible|generally|typically|in (?:most|some) cases|to some extent|sort of|kind of"
    r"|may (?:be|have|not)|could be|somewhat|likely)\b",
    re.IGNORECASE,
)
_SELF_PRAISE = re.compile(
    r"\b(?:as an? (?:\w+ )?(?:expert|advanced|powerful|state-of-the-art|highly)"
    r"|i(?:'m| am) (?:an? )?(?:very |highly |extremely |really )?(?:expert|good at|great at|proud"
    r"|capable|intelligent|smart|skilled|excellent|the best|the perfect"
    r"|confident (?:that )?(?:my|this))"
    r"|my (?:\w+ )?(?:excellent|superior|vast|extensive|great|perfect|deep) (?:\w+ )?(?:answer"
    r"|knowledge|skills?|understanding|expertise|abilit\w+|analysis)"
    r"|(?:i hope|glad|happy) (?:that )?(?:my|this) (?:great|excellent|perfect)"
    r"|here(?:'s| is) (?:my|the|a|an) (?:excellent|perfect|brilliant|amazing|best|great"
    r"|ultimate))\b",
    re.IGNORECASE,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.DOTALL)


def _share(pattern: re.Pattern[str]) -> Callable[[str], float]:
    return lambda text: float(bool(pattern.search(text)))


def count_words(text: str) -> float:
    """Return the number of words between white space."""
    return float(len(text.split()))


def asks_back(text: str) -> float:
    """Return 1.0 if the last sentence is a question to the user."""
    return float(text.rstrip().rstrip("\"')*_ ").endswith("?"))


# Name of the figure → figure of the answer's text outside code.
FIGURES: Mapping[str, Callable[[str], float]] = {
    "words": count_words,
    "lists": _share(_LIST_ITEM),
    "headings": _share(_HEADING),
    "emoji": _share(_EMOJI),
    "hedging": _share(_HEDGING),
    "exclamation": _share(re.compile(r"!(?!=)")),
    "self_praise": _share(_SELF_PRAISE),
    "questions": asks_back,
}


def style_of(text: str) -> dict[str, float]:
    """Return the figures of one answer; code is left out, because it has its own `#` and `!`."""
    prose = _CODE.sub(" ", text)
    return {name: figure(prose) for name, figure in FIGURES.items()}
