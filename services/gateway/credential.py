"""Who a bearer is and what they may do: the same of an API key and of an issuer's token."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from services.chassis.identity import Caller


class Scope(StrEnum):
    """What a credential may be used for."""

    CHAT = "chat"  # turns and the caller's own conversations
    FEEDBACK = "feedback"  # thumbs and corrections
    ACCOUNT = "account"  # what is kept about the caller
    OPERATE = "operate"  # reading rollout and loop, whose reports show samples of everybody


ALL_SCOPES = frozenset(Scope)
# What the page needs of a person; the panel of the loop is for operators.
USUAL_SCOPES = frozenset((Scope.CHAT, Scope.FEEDBACK, Scope.ACCOUNT))


@dataclass(frozen=True)
class Credential:
    """A bearer that was believed."""

    caller: Caller
    scopes: frozenset[Scope]


# Where everybody is let in.
NOBODY = Credential(Caller(), frozenset())


def scopes_from(names: Iterable[str]) -> frozenset[Scope]:
    """Those that are known; the scope of a later version grants nothing here."""
    return frozenset(Scope) & set(names)


def scopes_text(scopes: Iterable[Scope]) -> str:
    """As they are stored and shown, in the order of `Scope`."""
    return " ".join(scope for scope in Scope if scope in set(scopes))
