"""Ranges of numeric config fields, declared as types: `epochs: Count = 1`.

A config calls `check_ranges` in `__post_init__`.

Fields without a range, such as seeds, are listed in tests/training/runtime/test_ranges.py, so that
no field is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_type_hints

from training.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """Interval from low to high.

    `above` and `below` exclude the bounds. NaN is never contained. Infinity is contained if it is
    the upper bound and `below` is False.
    """

    low: float = 0.0
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            bound = "above" if self.above else "at least"
            return f"{bound} {self.low:g}{' and finite' if self.below else ''}"
        opening, closing = "(" if self.above else "[", ")" if self.below else "]"
        return f"in {opening}{self.low:g}, {self.high:g}{closing}"


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Positive = Annotated[float, Range(above=True, below=True)]
NonNegative = Annotated[float, Range(below=True)]
Limit = Annotated[float, Range(above=True)]  # infinity means no limit
Fraction = Annotated[float, Range(high=1)]
FractionBelowOne = Annotated[float, Range(high=1, below=True)]
FractionAboveZero = Annotated[float, Range(high=1, above=True)]
OpenFraction = Annotated[float, Range(high=1, above=True, below=True)]
# Fraction of flipped labels; with half of them flipped, labels carry no information.
FlipFraction = Annotated[float, Range(high=0.5, below=True)]
WeightCap = Annotated[float, Range(1)]  # a cap below 1 would shrink exact weights


def check_ranges(config: object) -> None:
    """Check the numeric fields of a config.

    Nested configs check themselves.

    Raises:
        ConfigError: a value is outside the range of its field.
    """
    kind: Any = type(config)
    for name, allowed in ranges_of(kind).items():
        check_range(name, getattr(config, name), allowed)


def check_range(name: str, value: Any, allowed: Range) -> None:
    """Check a value, or each element of a tuple; None is allowed.

    Args:
        name: field of the error.

    Raises:
        ConfigError: the value is outside the range.
    """
    for one in value if isinstance(value, tuple) else (value,):
        if one is not None and one not in allowed:
            raise ConfigError(
                f"{name}: {one} is not {allowed}",
                field=name,
                reason="OUT_OF_RANGE",
                limit=str(allowed),
            )


@cache
def ranges_of(kind: type) -> Mapping[str, Range]:
    """Return the ranges of a config class by field; a tuple has the range of its elements."""
    found = {
        name: _range_in(hint) for name, hint in get_type_hints(kind, include_extras=True).items()
    }
    return MappingProxyType({name: one for name, one in found.items() if one is not None})


def _range_in(hint: Any) -> Range | None:
    if isinstance(hint, Range):
        return hint
    return next((found for part in get_args(hint) if (found := _range_in(part)) is not None), None)
