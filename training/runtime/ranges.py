"""Ranges and choices of config fields, declared as types: `epochs: Count = 1`.

A config calls `check_fields` in `__post_init__`. Commands check single values of `--set` with the
same rules before the config is known.

Numbers without a range, such as seeds, are listed in tests/training/runtime/test_ranges.py, so that
no field is forgotten.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_type_hints

from training.errors import ConfigError, unknown_choice


class Rule(ABC):
    """Rule of a field's value, part of its type: `Annotated[str, Choices(NAMES)]`."""

    def check(self, name: str, value: Any) -> None:
        """Check a value, or each element of a tuple or a mapping; None is allowed.

        Args:
            name: field of the error.

        Raises:
            ConfigError: the value is not allowed.
        """
        if isinstance(value, Mapping):
            for key, one in value.items():
                self.check(f"{name}.{key}", one)
            return
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None:
                self.check_one(name, one)

    @abstractmethod
    def check_one(self, name: str, value: Any) -> None:
        """Check a single value; arguments and errors as in `check`."""


@dataclass(frozen=True)
class Choices(Rule):
    """Allowed names of a field."""

    names: tuple[str, ...]

    def check_one(self, name: str, value: str) -> None:
        """Raise the error of an unknown name, with the closest name."""
        if value not in self.names:
            raise unknown_choice(name, value, self.names)


@dataclass(frozen=True)
class Range(Rule):
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

    def check_one(self, name: str, value: float) -> None:
        """Raise the error of a number outside the range."""
        if value not in self:
            raise ConfigError(
                f"{name}: {value} is not {self}",
                field=name,
                reason="OUT_OF_RANGE",
                limit=str(self),
            )


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


def check_fields(config: object) -> None:
    """Check the fields of a config by their rules.

    Nested configs check themselves.

    Raises:
        ConfigError: a value is not allowed by the rule of its field.
    """
    kind: Any = type(config)
    for name, rule in rules_of(kind).items():
        rule.check(name, getattr(config, name))


@cache
def rules_of(kind: type) -> Mapping[str, Rule]:
    """Return the rules of a config class by field; tuples and mappings have those of elements."""
    found = {
        name: _rule_in(hint) for name, hint in get_type_hints(kind, include_extras=True).items()
    }
    return MappingProxyType({name: one for name, one in found.items() if one is not None})


def _rule_in(hint: Any) -> Rule | None:
    if isinstance(hint, Rule):
        return hint
    return next((found for part in get_args(hint) if (found := _rule_in(part)) is not None), None)
