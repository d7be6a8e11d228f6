"""Words that sound alike and are all spelled right: its and it's, your and you're. The next word
decides.
"""

import re
from collections.abc import Iterator

from services.enhancer.edits import Edit, Kind

PREDICATE = (
    "a an the not very so too really quite always never just been going hard difficult easy "
    "okay ok important "
    "possible impossible raining snowing driving making getting giving because"
)
ALIKE = (
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
    """The edits of a text (protected parts masked), in no particular order."""
    for pattern, ending in ALIKE:
        for found in pattern.finditer(text):
            yield Edit(found.end(1), found.end(), ending, Kind.GRAMMAR)
