"""What a number in a config may be, said where the field is: `epochs: Count = 1`. A config asks
`check_ranges` when it is made.

A number that may be anything, as a seed, has no range; tests/training/test_ranges.py lists those,
so that none is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints

from training.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """From low to high. above, below: the bound itself is not in it. Infinity is in where it is the
    high that is not `below`, NaN never.
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
            return f"{'above' if self.above else 'at least'} {self.low:g}{' and finite' if self.below else ''}"
        return f"in {'(' if self.above else '['}{self.low:g}, {self.high:g}{')' if self.below else ']'}"


Count = Annotated[int, Range(1)]
CountOrZero = Annotated[int, Range(0)]
Positive = Annotated[float, Range(above=True, below=True)]
NonNegative = Annotated[float, Range(below=True)]
Limit = Annotated[float, Range(above=True)]  # infinity: there is none
Fraction = Annotated[float, Range(high=1)]
FractionBelowOne = Annotated[float, Range(high=1, below=True)]
FractionAboveZero = Annotated[float, Range(high=1, above=True)]
OpenFraction = Annotated[float, Range(high=1, above=True, below=True)]
FlipFraction = Annotated[
    float, Range(high=0.5, below=True)
]  # of labels: with half of them flipped they say nothing
WeightCap = Annotated[float, Range(1)]  # below 1 it would shrink exact weights too


def check_ranges(config: object) -> None:
    """Raises: ConfigError: a number of the config itself (its parts ask for themselves) is not in
    its field's range.
    """
    for name, allowed in ranges_of(type(config)).items():
        value = getattr(config, name)
        for one in value if isinstance(value, tuple) else (value,):
            if one is not None and one not in allowed:
                raise ConfigError(
                    f"{name}: {one} is not {allowed}",
                    field=name,
                    reason="OUT_OF_RANGE",
                    limit=str(allowed),
                )


def ranges_of(kind: type) -> Mapping[str, Range]:
    """The fields of a config class that have a range; of a tuple it is each element's."""
    found = {
        name: _range_in(hint) for name, hint in get_type_hints(kind, include_extras=True).items()
    }
    return {name: allowed for name, allowed in found.items() if allowed is not None}


def _range_in(hint: Any) -> Range | None:
    if isinstance(hint, Range):
        return hint
    return next((found for part in get_args(hint) if (found := _range_in(part)) is not None), None)
