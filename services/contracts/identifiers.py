"""Identifiers that several services derive by the same formula, or read.

Thumbs and turns are joined by the principal. The event id of a retraction is found by its answer.
"""

import hmac
import uuid

from services.chassis.identity import Caller

# Names of external models as versions begin with it. Versions of the rollout must not, because
# training leaves answers of these names out (training/data/feedback/external.py).
EXTERNAL_PREFIX = "external."
# uuid5(NAMESPACE_URL, "urn:thumbwheel:turns"). Must never change: the event id of a turn depends on
# the namespace.
TURN_NAMESPACE = uuid.UUID("e2251413-5acf-5f43-8fa6-38ad7b4ab04e")
# Revisions of a turn: its record, and the record that retracts the turn.
FINISHED, ERASED = 0, 1


def principal_of(key: str, caller: Caller) -> str:
    """Return the pseudonym of a user in stored feedback and turn records.

    The principal is HMAC-SHA-256 of `tenant/user` under the key's UTF-8 bytes, as 64 hex digits.
    """
    return hmac.digest(key.encode(), caller.key.encode(), "sha256").hex()


def turn_event_id(answer_id: str, revision: int) -> str:
    """Return the event id of a turn record, a UUIDv5; `revision` is FINISHED or ERASED."""
    return str(uuid.uuid5(TURN_NAMESPACE, f"{answer_id}/{revision}"))


def created_us(message_id: str) -> int:
    """Return the creation time of a UUIDv7 in microseconds since 1970, or 0 for other versions.

    The session service makes such ids for messages (RFC 9562 section 5.7). The resolution is a
    millisecond.
    """
    found = uuid.UUID(message_id)
    return (found.int >> 80) * 1_000 if found.version == 7 else 0
