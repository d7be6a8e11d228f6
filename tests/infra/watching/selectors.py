"""Selectors in PromQL expressions, found without a parser of the whole language."""

import re

WORDS = frozenset(
    ("and", "or", "unless", "by", "on", "without", "ignoring", "group_left", "group_right", "bool")
)
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)")
# A name with its matchers. Names before "(" are functions; a number begins with no letter.
NAME = re.compile(r"(?<![\w:$<])([a-zA-Z_:][\w:]*+)(\{[^}]*\})?+(?!\s*\()")


def selectors(expression: str) -> list[tuple[str, str]]:
    """Return metric and matchers of each selector of an expression.

    Args:
        expression: PromQL without durations outside of brackets.
    """
    strings: list[str] = []

    def keep(found: re.Match[str]) -> str:
        strings.append(found[0])
        return f'"{len(strings) - 1}"'

    plain = re.sub(r"\[[^\]]*\]", "", GROUPING.sub("", STRING.sub(keep, expression)))
    return [
        (name, re.sub(r'"(\d+)"', lambda found: strings[int(found[1])], matchers))
        for name, matchers in NAME.findall(plain)
        if name not in WORDS
    ]
