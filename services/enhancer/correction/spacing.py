"""Corrections of spaces: one between words, none before and one after a punctuation mark.

Indentation and tables do not change.
"""

import re
from collections.abc import Iterator

from services.enhancer.correction.edits import Edit, EditKind

DOUBLED = re.compile(r"(?<=[^\s.!?:|]) {2,}(?=[^\s|])")
BEFORE_MARK = re.compile(r"(?<=\w) +(?=[,;?!](?:\s|$)|[?!]{2,}|\.(?:\s|$))")
AFTER_MARK = re.compile(r"(?<=[a-z][,;?!])(?=[a-z])")


def spacing_edits(line: str) -> Iterator[Edit]:
    """Yield the edits of one line in no particular order."""
    if "|" in line or "\t" in line:
        return
    for found in DOUBLED.finditer(line):
        yield Edit(*found.span(), " ", EditKind.SPACING)
    for found in BEFORE_MARK.finditer(line):
        yield Edit(*found.span(), "", EditKind.SPACING)
    for found in AFTER_MARK.finditer(line):
        yield Edit(*found.span(), " ", EditKind.SPACING)
