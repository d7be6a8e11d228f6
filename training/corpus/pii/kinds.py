"""Kinds of personal data, and the result of their removal from a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Kinds of personal data. The name of the member is the type in a placeholder."""

    EMAIL = "email"
    PHONE = "phone"
    IBAN = "iban"
    BANK_ACCOUNT = "bank account"
    CARD = "card"
    IP_ADDRESS = "ip address"
    PRIVATE_IP_ADDRESS = "private ip address"
    NATIONAL_ID = "national id"
    SECRET = "secret"  # noqa: S105 - a kind


# Addresses of private networks identify no person outside of them, and are frequent in manuals.
# Secrets on public pages are examples; in conversations they are users' own.
DEFAULT_KINDS = frozenset(Kind) - {Kind.PRIVATE_IP_ADDRESS, Kind.SECRET}
KINDS_OF_USERS = DEFAULT_KINDS | {Kind.SECRET}


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) of a text that are personal data.

    Attributes:
        value: the data in a form that is equal for all spellings, such as digits without spaces.
    """

    start: int
    end: int
    kind: Kind
    value: str


@dataclass(frozen=True, slots=True)
class Redacted:
    """A text with placeholders, and the number of replacements for each kind above 0."""

    text: str
    counts: Mapping[Kind, int]
