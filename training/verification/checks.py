"""What makes a response right: the part of an item that verifies it, as it stands in a file. It
holds expected values and is never part of a prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from training.errors import DetailedError


class CheckError(DetailedError, ValueError):
    """A check in a file is not one of ours; the text names the field, never the content."""

    reason = "INVALID_CHECK"


@dataclass(frozen=True)
class Mathematics:
    """The final answer equals this one symbolically."""

    expected: str


@dataclass(frozen=True)
class Choice:
    """The final answer is this letter, of so many from A on."""

    letter: str
    letters: int


@dataclass(frozen=True)
class Gym:
    """The final answer satisfies the generator of reasoning-gym that made the question. entry: its
    own record, as JSON.
    """

    generator: str
    entry: str


@dataclass(frozen=True)
class Calls:
    """The function of this name gives these values for these arguments. Both are JSON, a text a
    case.
    """

    function: str
    arguments: tuple[str, ...]
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Programs:
    """The program writes these outputs for these inputs."""

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
    """As it stands in a file."""
    kind = next(name for name, shape in _KINDS.items() if shape is type(check))
    return {"kind": kind, **asdict(check)}


def from_mapping(row: Mapping[str, Any]) -> Check:
    """Raises: CheckError: the kind is unknown, a field is missing, of another type, or too many."""
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
            f"check: {row['kind']} has {names}, and nothing else",
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
    for text in check.arguments + check.expected if isinstance(check, Calls) else ():
        _parsed(text)
    return check


def _field(name: str, value: Any, wanted: str) -> Any:
    if wanted == "str" and isinstance(value, str) and value:
        return value
    if wanted == "int" and type(value) is int and value > 0:
        return value
    if (
        wanted.startswith("tuple")
        and isinstance(value, list | tuple)
        and all(isinstance(text, str) for text in value)
    ):
        return tuple(value)
    raise CheckError(
        f"check.{name}: must be {wanted} and not empty",
        field=f"check.{name}",
        reason="WRONG_TYPE",
        limit=wanted,
    )


def _parsed(text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise CheckError(
            "check.arguments and check.expected: must be JSON", field="check", reason="MALFORMED"
        ) from error
