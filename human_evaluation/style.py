"""Style of an answer's text, whose effect on votes can be removed from ratings.

The features and their difference are those of LMArena's style control (blog of 2024-08-28; example
of arena-rank 0.1.1): length, and Markdown headers, bold passages and list items outside of code.
"""

from __future__ import annotations

import re

import numpy as np

from human_evaluation.battles import Array

STYLE_FEATURES = ("length", "headers", "bold", "lists")

_CODE = re.compile(r"```[^`]*```")
_HEADER = re.compile(r"^#{1,6}\s", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")
# Spaces and tabs only: with line breaks, each of many empty lines would be searched to the end.
_ITEM = re.compile(r"^[ \t]*(?:\d+\.|[-*+])\s", re.MULTILINE)


def style_counts(text: str, tokens: int | None = None) -> Array:
    """Return the counts of STYLE_FEATURES in a text, [4].

    Args:
        text: Markdown of the answer.
        tokens: length of the answer in tokens; words separated by spaces are counted without it.
            The answers of a battle must be counted alike.
    """
    prose = _CODE.sub("", text)
    length = len(text.split()) if tokens is None else tokens
    patterns = (_HEADER, _BOLD, _ITEM)
    return np.array([length, *(len(pattern.findall(prose)) for pattern in patterns)], float)


def style_difference(first: Array, second: Array) -> Array:
    """Return the differences of counts divided by their sums, from -1 to 1, [..., 4].

    A feature that neither answer has differs by 0. `bradley_terry.fit` standardizes the columns.
    """
    total = first + second
    difference: Array = (first - second) / np.where(total > 0, total, 1.0)
    return difference
