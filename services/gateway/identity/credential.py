"""Credential of a caller, from an API key or from an issuer's token."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from services.chassis.identity import Caller


class Scope(StrEnum):
    """Permission of a credential."""

    CHAT = "chat"  # turns and the caller's own conversations
    FEEDBACK = "feedback"  # thumbs and corrections
    ACCOUNT = "account"  # consent and erasure of the caller's data
    REVIEW = "review"  # stored answers of other users of the tenant, to be judged
    OPERATE = (
        "operate"  # read access to rollout and loop; loop reports contain samples of all users
    )
    END_USERS = "end_users"  # the key is shared; its calls name their end users


# Keys of one user. A shared key is marked explicitly.
ALL_SCOPES = frozenset(Scope) - {Scope.END_USERS}
# Scopes needed by a user of the page. The loop panel is reserved for operators.
DEFAULT_SCOPES = frozenset((Scope.CHAT, Scope.FEEDBACK, Scope.ACCOUNT))


@dataclass(frozen=True)
class Credential:
    """An authenticated caller with scopes."""

    caller: Caller
    scopes: frozenset[Scope]


# Credential of public calls.
ANONYMOUS = Credential(Caller(), frozenset())


def scopes_from(names: Iterable[str]) -> frozenset[Scope]:
    """Return the known scopes. A scope of a later version grants nothing."""
    return frozenset(Scope) & set(names)


def scopes_text(scopes: Iterable[Scope]) -> str:
    """Return the text form for storage and display, in the order of `Scope`."""
    return " ".join(scope for scope in Scope if scope in set(scopes))
