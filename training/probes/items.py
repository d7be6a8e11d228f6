"""Items of the probes, read from the JSON lines in texts/."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from training.data.formats.fields import ROLES
from training.errors import DetailedError
from training.verification.checks import Check, CheckError, from_mapping

TEXTS = Path(__file__).parent / "texts"


class ProbeError(DetailedError, ValueError):
    """An item is invalid, or probes cannot be run; the text never holds an answer."""

    reason = "INVALID_PROBE"


class Kind(StrEnum):
    """Kind of probes: the name of its task in the score store and of its file."""

    REFUSAL = "safety_refusal"
    OVER_REFUSAL = "safety_over_refusal"
    AGREEMENT = "sycophancy_agreement"
    FLATTERY = "sycophancy_flattery"
    GIVING_WAY = "sycophancy_giving_way"
    KNOWLEDGE = "knowledge"


class Expected(StrEnum):
    """Expected reaction to an item."""

    REFUSE = "refuse"
    ANSWER = "answer"
    DISAGREE = "disagree"  # the user's claim is false
    AGREE = "agree"  # the user's claim is true
    CRITICISE = "criticise"  # the user's work is bad
    APPROVE = "approve"  # the user's work is good
    TERM = "term"  # the first asserted term of `right` and `wrong` is one of `right`
    NUMBER = "number"  # the final number is that of `right`
    CODE = "code"  # the code passes `check`


_EXPECTED: Mapping[Kind, tuple[Expected, ...]] = {
    Kind.REFUSAL: (Expected.REFUSE,),
    Kind.OVER_REFUSAL: (Expected.ANSWER,),
    Kind.AGREEMENT: (Expected.DISAGREE, Expected.AGREE),
    Kind.FLATTERY: (Expected.CRITICISE, Expected.APPROVE),
    Kind.GIVING_WAY: (Expected.DISAGREE, Expected.AGREE),
    Kind.KNOWLEDGE: (Expected.TERM, Expected.NUMBER, Expected.CODE),
}
_NEEDS_RIGHT = (
    Expected.DISAGREE,
    Expected.AGREE,
    Expected.CRITICISE,
    Expected.TERM,
    Expected.NUMBER,
)


@dataclass(frozen=True)
class ProbeItem:
    """One item.

    Attributes:
        messages: conversation up to the answer, with the keys `role` and `content`.
        right: terms of the expected answer; for `criticise` terms that name a flaw.
        wrong: terms of the false answer.
        check: test of code; only for `code`.
    """

    id: str
    kind: Kind
    category: str
    expected: Expected
    messages: tuple[Mapping[str, str], ...]
    right: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    check: Check | None = None


@cache
def items_of(kind: Kind) -> tuple[ProbeItem, ...]:
    """Return the items of a kind, in a fixed order."""
    return read_items(TEXTS / f"{kind}.jsonl", kind)


def read_items(path: Path, kind: Kind) -> tuple[ProbeItem, ...]:
    """Read items of a kind from JSON lines.

    Raises:
        ProbeError: a line is invalid, or an id occurs twice; `field` is file:line:key.
    """
    items: list[ProbeItem] = []
    known: set[str] = set()
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        place = f"{path.name}:{number}"
        item = _parse(line, kind, place)
        if item.id in known:
            raise ProbeError(f"{place}: id {item.id} is used twice", field=f"{place}:id")
        known.add(item.id)
        items.append(item)
    return tuple(items)


def _parse(line: str, kind: Kind, place: str) -> ProbeItem:
    def invalid(key: str, limit: str) -> ProbeError:
        return ProbeError(f"{place}: {key} must be {limit}", field=f"{place}:{key}", limit=limit)

    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise ProbeError(f"{place}: is not JSON", field=place) from error
    known = {"id", "category", "expected", "messages", "right", "wrong", "check"}
    if not isinstance(row, dict) or not row.keys() <= known:
        raise ProbeError(f"{place}: has other keys", field=place, limit=", ".join(sorted(known)))
    for key in ("id", "category"):
        if not isinstance(row.get(key), str) or not row[key]:
            raise invalid(key, "a text")
    if row.get("expected") not in _EXPECTED[kind]:
        raise invalid("expected", " or ".join(_EXPECTED[kind]))
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        raise invalid("messages", "messages with role and content")
    if messages[-1]["role"] != "user":
        raise invalid("messages", "a conversation that ends with the user")
    terms = {key: row.get(key, []) for key in ("right", "wrong")}
    for key, values in terms.items():
        if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
            raise invalid(key, "a list of texts")
    expected = Expected(row["expected"])
    if expected in _NEEDS_RIGHT and not terms["right"]:
        raise invalid("right", "at least one term")
    if ("check" in row) != (expected is Expected.CODE):
        raise invalid("check", f"given for {Expected.CODE}, and only there")
    try:
        check = from_mapping(row["check"]) if "check" in row else None
    except CheckError as error:
        raise ProbeError(f"{place}: {error}", field=f"{place}:{error.field}") from error
    return ProbeItem(
        row["id"],
        kind,
        row["category"],
        expected,
        tuple(messages),
        tuple(terms["right"]),
        tuple(terms["wrong"]),
        check,
    )


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and message.keys() == {"role", "content"}
        and message["role"] in ROLES
        and isinstance(message["content"], str)
        and bool(message["content"])
    )


def digest(parts: object) -> str:
    """Return the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()
