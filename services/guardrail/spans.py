"""A stretch of an answer that must not be shown, and what is shown in its place."""

from dataclasses import dataclass

from services.guardrail.verdict import Category


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (exclusive), replaced by `replacement`."""

    start: int
    end: int
    category: Category
    replacement: str
