"""Corrections of correctly spelled homophones (its and it's, your and you're) by the next word."""

import re
from collections.abc import Iterator

from services.enhancer.correction.edits import Edit, EditKind

PREDICATE = (
    "a an the not very so too really quite always never just been going hard difficult easy "
    "okay ok important "
    "possible impossible raining snowing driving making getting giving because"
)
HOMOPHONES = (
    (re.compile(rf"\b(it)s(?=\s+(?:{'|'.join(PREDICATE.split())})\b)", re.IGNORECASE), "'s"),
    (
        re.compile(
            r"\b(you)r(?=\s+(?:a|an|the|not|very|so|too|really|going|welcome|doing|being|able|"
            r"always|never)\b)",
            re.IGNORECASE,
        ),
        "'re",
    ),
)


def confusion_edits(text: str) -> Iterator[Edit]:
    """Yield the edits of a text with masked protected parts, in no particular order."""
    for pattern, ending in HOMOPHONES:
        for found in pattern.finditer(text):
            yield Edit(found.end(1), found.end(), ending, EditKind.GRAMMAR)
