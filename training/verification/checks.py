"""Checks, the verifying part of an item as stored in a file, and verdicts on responses.

Checks hold expected values and are never part of a prompt. Only the verdict `right` has a reward.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from training.errors import DetailedError


class Outcome(StrEnum):
    """Outcome of a verification. VERIFIER_FAILED concerns the verifier, all others the response."""

    RIGHT = "right"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    OUT_OF_TIME = "out_of_time"
    OUT_OF_MEMORY = "out_of_memory"
    VERIFIER_FAILED = "verifier_failed"


@dataclass(frozen=True)
class Verdict:
    """Outcome with a reason for reports. Reasons contain no expected values and may be logged."""

    outcome: Outcome
    reason: str = ""

    @property
    def reward(self) -> float:
        """Reward of 1 or 0. Partial rewards for passed tests would favour constants."""
        return float(self.outcome is Outcome.RIGHT)


class VerificationError(DetailedError):
    """Error for a verifier that is unavailable or fails too often; never a reward of 0."""

    reason = "VERIFICATION_FAILED"


class CheckError(DetailedError, ValueError):
    """Error for an invalid check in a file; the message names the field, never the content."""

    reason = "INVALID_CHECK"


@dataclass(frozen=True)
class Mathematics:
    """Check for a final answer symbolically equal to `expected`."""

    expected: str


@dataclass(frozen=True)
class Choice:
    """Check for a letter among the first `letters` letters from A."""

    letter: str
    letters: int


@dataclass(frozen=True)
class Gym:
    """Check by the scorer of a reasoning-gym generator.

    `entry` is the generator's record as JSON.
    """

    generator: str
    entry: str


@dataclass(frozen=True)
class Calls:
    """Check of a function: expected return values for given arguments, each case as JSON text."""

    function: str
    arguments: tuple[str, ...]
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Programs:
    """Check of a program: expected outputs for given inputs."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


Check = Mathematics | Choice | Gym | Calls | Programs
TextCheck = Mathematics | Choice | Gym
CodeCheck = Calls | Programs
_KINDS: dict[str, type[Check]] = {
    "mathematics": Mathematics,
    "choice": Choice,
    "gym": Gym,
    "calls": Calls,
    "programs": Programs,
}


def to_mapping(check: Check) -> dict[str, object]:
    """Return the check as a JSON object."""
    kind = next(name for name, shape in _KINDS.items() if shape is type(check))
    return {"kind": kind, **asdict(check)}


def from_mapping(row: Mapping[str, Any]) -> Check:
    """Parse a check from a JSON object.

    Raises:
        CheckError: the kind is unknown, or a field is missing, superfluous or of another type.
    """
    shape = _KINDS.get(row.get("kind", ""))
    if shape is None:
        raise CheckError(
            f"check.kind: must be one of {', '.join(_KINDS)}",
            field="check.kind",
            reason="UNKNOWN",
            limit=", ".join(_KINDS),
        )
    given = {name: value for name, value in row.items() if name != "kind"}
    if given.keys() != shape.__annotations__.keys():
        names = ", ".join(shape.__annotations__)
        raise CheckError(
            f"check: {row['kind']} has exactly the fields {names}",
            field="check",
            reason="MISMATCH",
            limit=names,
        )
    check = shape(
        **{name: _field(name, value, shape.__annotations__[name]) for name, value in given.items()}
    )
    if isinstance(check, Calls) and not len(check.arguments) == len(check.expected) > 0:
        raise CheckError(
            "check.expected: one for each of check.arguments, at least one",
            field="check.expected",
            reason="MISMATCH",
        )
    if isinstance(check, Programs) and not len(check.inputs) == len(check.outputs) > 0:
        raise CheckError(
            "check.outputs: one for each of check.inputs, at least one",
            field="check.outputs",
            reason="MISMATCH",
        )
    try:
        for text in check.arguments + check.expected if isinstance(check, Calls) else ():
            json.loads(text)
    except ValueError as error:
        raise CheckError(
            "check.arguments and check.expected: must be JSON", field="check", reason="MALFORMED"
        ) from error
    return check


def _field(name: str, value: Any, expected_type: str) -> Any:
    if expected_type == "str" and isinstance(value, str) and value:
        return value
    if expected_type == "int" and type(value) is int and value > 0:
        return value
    if (
        expected_type.startswith("tuple")
        and isinstance(value, list | tuple)
        and all(isinstance(text, str) for text in value)
    ):
        return tuple(value)
    raise CheckError(
        f"check.{name}: must be {expected_type} and not empty",
        field=f"check.{name}",
        reason="WRONG_TYPE",
        limit=expected_type,
    )
