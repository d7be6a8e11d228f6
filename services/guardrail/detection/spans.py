"""Span of a text that must not be shown, with its replacement."""

from dataclasses import dataclass

from services.guardrail.verdict import Category


@dataclass(frozen=True)
class Span:
    """Characters `start` to `end` (exclusive), replaced by `replacement`."""

    start: int
    end: int
    category: Category
    replacement: str
